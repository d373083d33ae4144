import { binding } from '../core/binding.js'
import * as validate from '../core/validate.js'

/** Options of a channel. */
export interface FdChannelOptions {
  /** The maximum size in bytes of a message, sent or received: 1 to 1,048,576. Default: 65,536. */
  maxMessage?: number
}

/** Options of `FdChannel.send`. */
export interface SendOptions {
  /**
   * The timeout in ms from the call until the kernel has the whole message. Negative: no timeout. 0: send only if the
   * socket has room. Default: -1.
   */
  timeout?: number
  /** Gives the message up with `ABORT_ERR` when aborted. */
  signal?: AbortSignal
}

/** Options of `FdChannel.connect` and `FdChannel.pair`. */
export interface FdChannelSocketOptions extends FdChannelOptions {
  /** The type of the socket. Default: `'stream'`. */
  type?: 'stream' | 'seqpacket'
}

/** @internal */
export const defaultMaxMessage = 64 * 1024

const channelNames: validate.Names<FdChannelOptions> = { maxMessage: true }
const sendNames: validate.Names<SendOptions> = { timeout: true, signal: true }
const pairNames: validate.Names<FdChannelSocketOptions> = { ...channelNames, type: true }

/** @internal Returns a checked copy of the options. Reads each option once. */
export function readChannelOptions(options: FdChannelOptions): FdChannelOptions {
  validate.options('options', options, channelNames)
  return { maxMessage: readMaxMessage(options) }
}

function readMaxMessage({ maxMessage }: FdChannelOptions): number | undefined {
  validate.optionalInteger('options.maxMessage', maxMessage, 1, binding.maxReceived)
  return maxMessage
}

/** @internal Returns a checked copy of the options. Reads each option once. */
export function readFdChannelSocketOptions(options: FdChannelSocketOptions): FdChannelSocketOptions {
  validate.options('options', options, pairNames)
  const maxMessage = readMaxMessage(options)
  const { type } = options
  validate.optionalOneOf('options.type', type, ['stream', 'seqpacket'])
  return { maxMessage, type }
}

/** @internal Returns the checked options. Reads each option once. */
export function readSendOptions(options: SendOptions): { timeout: number; signal: AbortSignal | undefined } {
  validate.options('options', options, sendNames)
  const { timeout = -1, signal }: SendOptions = options
  validate.optionalSignal('options.signal', signal)
  return { timeout: validate.timeout('options.timeout', timeout), signal }
}
