"""Limits that hold for the whole cluster: concurrency, rates, pauses, money and tokens.

Plain Python, without Ray. One `server.LimitsServer` for a run holds what may be used; one
`client.LimitsClient` in each worker process takes a share of it and hands it out to the requests of
its engines. They exchange one call, `LimitsServer.sync`, a few times a second and never for each
request: a client asks for what it could use soon and gets a lease on it.

How each limit holds although clients act on their own between two syncs:

- *Slots* (concurrency of an API key) are leased. The server counts a client's old share as taken
  until the client has confirmed the smaller one. A client that has not called
  for `SILENT_SECONDS` loses its slots; it stops by itself a second before that.
- *Rates* (requests and tokens a minute) are granted as permits that expire `PERMIT_SECONDS` after
  they were asked for. The server never grants more than the limit in any
  `WINDOW_SECONDS`, which is a minute plus a permit's life plus a margin for the network, so no 60
  seconds see more starts than the limit. Permits that were not used are handed back.
- *Money and tokens of the run* are reserved before a request starts, at the most it can cost. A
  client may spend up to a ceiling, and all clients' ceilings together stay within the budget.
  What a killed client had reserved stays reserved for the rest of the run, because its requests
  may have been billed; the next start counts again from the journal of responses.

Money is counted in whole picodollars (1e-12 USD), so that sums are exact.

Known holes: a server that is started again has forgotten the last minute's starts; a model server
that bills more than it was asked for (ignores ``max_tokens``) can pass the budget by that much.
"""
