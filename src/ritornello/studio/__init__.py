"""The studio: a page on which a musician plays with a model, and the server that gives it this machine's engine.

``voices`` (music in the making, by turns in one thread), ``server`` (files, guards, one WebSocket for each page),
``page`` (what the browser loads: plain ES modules, the same with the server and without).
"""
