/**
 * The state of a worker.
 *
 * - `'starting'`: the process runs, and is not ready.
 * - `'ready'`: it has sent READY=1.
 * - `'ending'`: it drains: it got SIGTERM, or was ready and has sent STOPPING=1.
 * - `'killed'`: it got SIGKILL.
 * - `'gone'`: the process has ended.
 */
export type WorkerState = 'starting' | 'ready' | 'ending' | 'killed' | 'gone'

export type WorkerEvent = 'ready' | 'retire' | 'stopping' | 'kill' | 'exit'

const events: Record<WorkerState, Partial<Record<WorkerEvent, WorkerState>>> = {
  starting: { ready: 'ready', retire: 'ending', kill: 'killed', exit: 'gone' },
  ready: { retire: 'ending', stopping: 'ending', kill: 'killed', exit: 'gone' },
  ending: { kill: 'killed', exit: 'gone' },
  killed: { exit: 'gone' },
  gone: {},
}

/** Returns the state after an event; undefined if the event changes nothing in this state. */
export const stateAfter = (state: WorkerState, event: WorkerEvent): WorkerState | undefined => events[state][event]
