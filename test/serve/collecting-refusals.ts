import type net from 'node:net'
import { type Connection, type Refusal, type ServeOptions, serve } from '../../src/index.js'
import { cleanUp, listen } from '../helpers.js'

/** Serves on a new listener until the test ends, and collects the 'refused' events. */
export async function served(target: net.Server | ((connection: Connection) => unknown), options?: ServeOptions) {
  const listener = await listen({ host: '127.0.0.1' })
  const serving = serve(listener, target, options)
  const refusals: Refusal[] = []
  serving.on('refused', (refusal) => refusals.push(refusal))
  cleanUp(() => serving.drain({ timeout: 0 }))
  return { listener, serving, refusals }
}
