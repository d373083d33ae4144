/** What a worker gets from its supervisor, as JSON in `ASYNC_ACCEPT_WORKER`. */
export interface WorkerSettings {
  slot: number
  /** What the paths of the supervisor begin with. */
  prefix: string
  /** The inodes of the shared listening sockets, by which the worker knows them. Their fds are others. */
  inodes: readonly number[]
  /** Undefined: it is not probed. */
  probe: ProbeTarget | undefined
}

/** Which server of a worker is asked, and for what. */
export interface ProbeTarget {
  /** That of its listening socket. */
  inode: number
  path: string
  /** ms between two probes of a worker that is ready. */
  interval: number
}

/** ms for one probe. */
export const probeTimeout = 5_000

/** The field of a notification that has the result of a probe: '' after an answer of 2xx, otherwise what was wrong. */
export const probeField = 'X_ASYNC_ACCEPT_PROBE'

/** The field of a notification that says that a worker has drained, and expects SIGTERM. */
export const drainedField = 'X_ASYNC_ACCEPT_DRAINED'

export const scoreboardPath = (prefix: string): string => `${prefix}scoreboard`

export const attachmentPath = (prefix: string): string => `${prefix}workers`
