export { Connection, type ToSocketOptions } from './accept/connection.js'
export type { AcceptRef, AcceptResult } from './accept/delivery.js'
export {
  type CapacityPause,
  type CapacityPauseMessage,
  type ConnectionMessage,
  Listener,
  type ListenerEvents,
} from './accept/listener.js'
export type { AcceptOptions, ConnectionsOptions, FromFdOptions, ListenOptions } from './accept/options.js'
export type { UpgradeOptions } from './accept/tls-upgrade.js'
export type { Backlog, ListenerStats, PeerCredentials } from './core/binding.js'
export { type Code, type CodedError, codes, type PeekTimeoutError, type SystemError } from './core/errors.js'
export {
  type Activated,
  type ActivationOptions,
  activatedConnection,
  activatedListeners,
  activation,
} from './handover/activation.js'
export type { FdChannelOptions, FdChannelSocketOptions, SendOptions } from './handover/channel-options.js'
export { FdChannel } from './handover/fd-channel.js'
export {
  type Notification,
  type NotifyOptions,
  notify,
  notifyBarrier,
  removeFds,
  storeFds,
  watchdog,
} from './handover/notify.js'
export { type FdMessage, ReceivedFd } from './handover/received-fd.js'
export { type Passed, type SpawnActivatedOptions, spawnActivated } from './handover/spawn-activated.js'
export type { ClientHello } from './peek/client-hello.js'
export type { LookAheadOptions, PeekOptions } from './peek/look-ahead.js'
export { type Proxied, proxyOf } from './peek/proxied.js'
export type { ProxyEndpoint, ProxyHeader, ProxySsl } from './peek/proxy-protocol.js'
export type { Refusal } from './serve/admission.js'
export type { Alarm } from './serve/alarms.js'
export type { DrainOptions, DrainReport, EndOptions } from './serve/drain.js'
export type {
  CommonServeOptions,
  ConnectionFilter,
  ConnectionHandler,
  ProxyProtocolOptions,
  SecureHandler,
  ServeOptions,
} from './serve/options.js'
export { serve } from './serve/serve.js'
export type { Serving, ServingEvents, ServingState, ServingStateMessage } from './serve/serving.js'
