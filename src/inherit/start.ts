import { IdleTimeout } from './idle-timeout.js'
import { InheritedSockets } from './inherited-sockets.js'
import { interceptListen } from './intercept-listen.js'
import { ServiceState } from './service-state.js'
import { readSettings } from './settings.js'
import { Shutdown } from './shutdown.js'
import { UnservedSockets } from './unserved-sockets.js'

/**
 * Makes `listen()` of every server in this thread take the inherited sockets that match. Throws an error with a message
 * for the operator if a variable or an inherited fd is invalid; nothing has changed then.
 */
export function start(): void {
  const settings = readSettings(process.env)
  const sockets = InheritedSockets.open(settings)
  if (sockets === undefined) return
  const state = new ServiceState(sockets, settings.notify)
  const shutdown = new Shutdown(sockets, state, settings.drainTimeout)
  const unserved = new UnservedSockets(sockets)
  const idle = settings.idleTimeout === undefined ? undefined : new IdleTimeout(sockets, shutdown, settings.idleTimeout)
  interceptListen({
    onListen(server, asked) {
      unserved.note(asked)
      const served = sockets.serve(server, asked)
      if (served === true) {
        state.onServed()
        shutdown.onServed()
        idle?.onServed()
      }
      return served
    },
    onListenFd(fd) {
      sockets.markTaken(fd)
      state.onServed()
    },
  })
}
