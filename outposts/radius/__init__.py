"""RADIUS outpost: ``outposts radius``.

::

    rfc            numbers and names                     dictionary   names for logs and tools
    wire           octets ↔ packets, authenticators      networks     client networks, longest prefix
    providers      what the core says, resolved          request      one accepted request, and what becomes of it
    session        copies of packets; exchanges by State
    intake         is it one, may its sender send it, has it come before
    desk           the one path from a packet to its reply (RadSec's packets take it too)
    auth           Access-Request → the core's verdict → reply; the one place that states an Access-Accept
      refusals     everything that is no success         gate         waits after failures, logins at once
      attributes   what an Accept says                   challenge    Access-Challenge: a login waits for a person
      conversations, eap/                                EAP over RADIUS
    observe        log lines and metrics                 core_watch   may Status-Server say that all is well
    server         UDP sockets                           shared       several workers
    service        one configuration after the other     extension    where the optional parts plug in
    additions      accounting (accounting, reports, journal), disconnecting (das), RadSec (radsec)
"""
