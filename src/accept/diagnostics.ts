import { channel } from 'node:diagnostics_channel'
import type { Connection } from './connection.js'
import type { CapacityPause, Listener } from './listener.js'

/** What `async-accept.connection` publishes: an accepted connection, before the one who asked for it has it. */
export interface ConnectionMessage {
  listener: Listener
  connection: Connection
}

/** What `async-accept.capacity-pause` publishes. */
export interface CapacityPauseMessage extends CapacityPause {
  listener: Listener
}

export const connectionChannel = channel('async-accept.connection')
export const capacityPauseChannel = channel('async-accept.capacity-pause')
