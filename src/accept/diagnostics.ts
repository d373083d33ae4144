// The diagnostics channels of the package. listener.ts and serving.ts declare the types of their messages, which
// contain a Listener or a Serving.
import { channel } from 'node:diagnostics_channel'

export const connectionChannel = channel('async-accept.connection')
export const capacityPauseChannel = channel('async-accept.capacity-pause')
export const servingStateChannel = channel('async-accept.serving-state')
