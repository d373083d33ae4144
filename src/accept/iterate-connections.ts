import type { CodedError } from '../core/errors.js'
import type { Connection } from './connection.js'
import type { AcceptRef, Requester } from './delivery.js'

/** Makes and withdraws accept requests for an iterator. */
export interface AcceptSource {
  /** Requests one connection. Throws if the listener is closed, the signal is aborted, or there is no memory. */
  ask(requester: Requester): AcceptRef
  /** Withdraws a request. Returns true if the request was outstanding; its requester then receives no result. */
  withdraw(ref: AcceptRef): boolean
  isClosed(): boolean
}

const done = { value: undefined, done: true } as const

/**
 * Returns an async iterator that makes one request per `next()`. It ends after `limit` connections. `return()`
 * withdraws the outstanding requests.
 */
export function iterateConnections(source: AcceptSource, limit: number): AsyncIterableIterator<Connection> {
  const outstanding = new Map<AcceptRef, (result: IteratorResult<Connection>) => void>()
  let delivered = 0
  let returned = false
  return {
    next: () =>
      new Promise((resolve, reject) => {
        // An outstanding request counts towards the limit, so that no more connections are accepted.
        if (returned || source.isClosed() || delivered + outstanding.size >= limit) return resolve(done)
        const ref = source.ask({
          kind: 'promise',
          fulfil: (connection) => {
            outstanding.delete(ref)
            delivered++
            resolve({ value: connection, done: false })
          },
          fail: (error) => {
            outstanding.delete(ref)
            if ((error as CodedError).code === 'ERR_LISTENER_CLOSED') resolve(done)
            else reject(error)
          },
        })
        outstanding.set(ref, resolve)
      }),
    return: async () => {
      returned = true
      for (const [ref, resolve] of outstanding) {
        if (source.withdraw(ref)) resolve(done)
      }
      return done
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
