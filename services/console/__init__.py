"""The console: web pages at ``/`` for people, rendered on the server and readable without JavaScript.

A client of the control plane's own functions, as the API is: it computes no verdict, keeps no state but who has logged in, and
asks models over HTTP as any application does. It must not import `services.replica`, nor the parts of `services.control` that
act by themselves (`plane`, `loops`, `jobs`). Start with `app`, which puts the pages together and stands in front of the API;
`gate` decides who sees what, `sessions` remembers logins, `pages` renders. Each other module is one subject with its pages.
"""
