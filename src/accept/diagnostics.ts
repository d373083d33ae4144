// The diagnostics channels of the package. listener.ts declares the types of their messages, which refer to Listener.
import { channel } from 'node:diagnostics_channel'

export const connectionChannel = channel('async-accept.connection')
export const capacityPauseChannel = channel('async-accept.capacity-pause')
