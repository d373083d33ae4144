export {
  type Activated,
  type ActivationOptions,
  activatedConnection,
  activatedListeners,
  activation,
} from './activation.js'
export type { Refusal } from './admission.js'
export type { Alarm } from './alarms.js'
export type { Backlog, ListenerStats, PeerCredentials } from './binding.js'
export type { ClientHello } from './client-hello.js'
export { Connection, type ToSocketOptions } from './connection.js'
export type { CapacityPauseMessage, ConnectionMessage } from './diagnostics.js'
export type { DrainOptions, DrainReport, EndOptions } from './drain.js'
export { type Code, type CodedError, codes, type SystemError } from './errors.js'
export { FdChannel, type FdChannelOptions } from './fd-channel.js'
export {
  type AcceptOptions,
  type AcceptRef,
  type AcceptResult,
  type CapacityPause,
  type FromFdOptions,
  Listener,
  type ListenerEvents,
  type ListenOptions,
} from './listener.js'
export type { LookAheadOptions } from './look-ahead.js'
export {
  type Notification,
  type NotifyOptions,
  notify,
  notifyBarrier,
  removeFds,
  storeFds,
  watchdog,
} from './notify.js'
export { type Proxied, proxyOf } from './proxied.js'
export type { ProxyEndpoint, ProxyHeader, ProxySsl } from './proxy-protocol.js'
export { type FdMessage, ReceivedFd } from './received-fd.js'
export { type ConnectionHandler, type SecureHandler, type ServeOptions, serve } from './serve.js'
export type { Serving, ServingEvents, ServingState } from './serving.js'
export { type Passed, type SpawnActivatedOptions, spawnActivated } from './spawn-activated.js'
export type { UpgradeOptions } from './tls-upgrade.js'
