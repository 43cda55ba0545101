"""What people see in a browser: plain HTML made on the server, which needs no JavaScript.

- ``forms``   a flow's challenge → a form to show, and what the form sends → the answer the flow wants
- ``render``  templates, headers, the style sheet
- ``web``     the routes: ``/if/flow/<slug>/``, ``/``, ``/if/user/``
"""
