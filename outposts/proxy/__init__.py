"""The proxy outpost: login in front of web applications, by forward-auth checks or as their reverse proxy.

Rules without input or output (levels 0 to 2), in the order in which a request meets them::

    wire.py       octets of a request head → ``Head`` and ``AuthRequest``; what the fast lane may take
    dialects.py   nginx, Traefik, Caddy, Envoy, HAProxy, Apache: which headers hold the original URL, how to refuse
    urls.py       hosts, URLs, canonical paths; ``safe_redirect``, the one place that says where a browser may go
    providers.py  the core's records → ``ProxyProvider``; host and path → provider
    cookies.py    own cookies: names, reading, making
    session.py    a browser's session: anonymous, started, authenticated, ended
    identity.py   claims → header octets that are ready to send; what a client must not send
    rules.py      paths and networks without login, groups that a path needs
    state.py      what travels through a login: sealed, expiring, for one browser, used once
    verdicts.py   what can become of a request
    decision.py   one request → one verdict; the only place that says ``Allow``
    callback.py   a browser back from the core: exchange its code, begin anew, or a page that says why not
    forwarding.py a request that may pass, as the application behind gets it
    clients.py    whose request it is, behind proxies

Conversations with the core, the application and the store (level 3)::

    oidc.py       codes, tokens and credentials → verified claims; endpoints.py, keys.py and tokens.py are parts of it
    header_auth.py, renewal.py, revocation.py   credentials in headers, new tokens, ends of logins
    store.py      sessions, and what is used once; store_*.py are where they are kept
    upstream.py   a request that may pass → the application and back
    answers.py    verdicts that need not wait → answers
    observe.py    log lines and metrics

The daemon (levels 4 and 5)::

    listener.py   connections: PROXY protocol, TLS; then fast_lane.py reads requests and answers checks at once
    handlers.py   the full way: everything that has to wait
    server.py     all connections: limits and time-outs; service.py is what the daemon sees, shared.py with workers
"""
