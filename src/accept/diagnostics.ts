// The diagnostics channels of the package. listener.ts declares the types of their messages, because each message
// contains a Listener.
import { channel } from 'node:diagnostics_channel'

export const connectionChannel = channel('async-accept.connection')
export const capacityPauseChannel = channel('async-accept.capacity-pause')
