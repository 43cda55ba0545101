"""OAuth2 and OpenID Connect, provider side: what proxy outposts and other clients need (flows.md §8.4).

- ``protocol``       names, errors, redirect URIs, PKCE, client credentials: rules without storage
- ``providers``      a stored provider with its application, as one typed view; proxy providers have forced settings
- ``claims``         user and scopes → claims, by scope mappings
- ``keys``           signing: HS256 with the client secret, RS256 and ES256 with a certificate's key; JWKS
- ``tokens``         codes, access and refresh tokens: made here, looked up here
- ``authorize``      the checks of an authorization request, in order
- ``grants``         the token endpoint
- ``introspection``  introspection, revocation, userinfo
- ``discovery``      the configuration document
- ``web``            the routes

Stages that end an authorization or a session are with the other stages. Deliberately not offered: the implicit and
hybrid flows (RFC 9700 §2.1.2), request objects, dynamic registration.
"""
