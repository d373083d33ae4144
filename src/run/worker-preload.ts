// What `async-accept run` makes a worker load before its program: the preload of inherited sockets, and the share of
// this worker in the clients of all.
import { subscribe } from 'node:diagnostics_channel'
import { isMainThread } from 'node:worker_threads'
import type { ServingStateMessage } from '../serve/serving.js'
import { FairShare } from './fair-share.js'
import { Scoreboard } from './scoreboard.js'

const { ASYNC_ACCEPT_SCOREBOARD } = process.env
const [, slot, path] = /^(\d+):(.+)$/.exec(ASYNC_ACCEPT_SCOREBOARD ?? '') ?? []
if (isMainThread && slot !== undefined && path !== undefined) {
  // Child processes are not workers.
  delete process.env.ASYNC_ACCEPT_SCOREBOARD
  const share = new FairShare(Scoreboard.open(path), Number(slot))
  subscribe('async-accept.serving-state', (message) => {
    const { serving, before } = message as ServingStateMessage
    if (before === undefined) share.limit(serving)
    else share.stop(serving)
  })
}
await import('../inherit/inherit.js')
