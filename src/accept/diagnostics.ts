// The diagnostics channels of the package. The types of their messages stand beside the Listener, which they name.
import { channel } from 'node:diagnostics_channel'

export const connectionChannel = channel('async-accept.connection')
export const capacityPauseChannel = channel('async-accept.capacity-pause')
