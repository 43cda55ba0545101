"""EAP over RADIUS (RFC 3748, RFC 3579): one session object per conversation, without sockets, clock or event loop.

::

    packet     EAP packets: octets ↔ (code, identifier, type, data)
    fragments  flags, length and fragments of the TLS methods; caps; how large a packet may be
    steps      what a session says (Send, Decide, Succeed, Fail, Ignore) and is told (Granted, Refused, Asked)
    session    one conversation: which packet is legal now, time and round trip limits
    methods    which method is offered next, and what a method is
    tls        TLS inside EAP, keys, and EAP-TLS itself (RFC 5216, RFC 9190)
    ttls       EAP-TTLS with PAP or inner EAP-GTC (RFC 5281)
    peap       PEAPv0 with inner EAP-GTC
    gtc        the inner dialogue of TTLS and PEAP: identity, password, further questions (RFC 3748 §5.6)

``outposts/radius/auth.py`` feeds a session with what the NAS sends and asks the core when the session says ``Decide``.
"""
