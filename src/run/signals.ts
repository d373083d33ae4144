import { constants } from 'node:os'
import type { Fleet } from './fleet.js'
import type { Member } from './member.js'
import { watchTerminal } from './terminal.js'

/**
 * Makes the signals of the supervisor commands of its fleet. `termDelay`: ms from SIGTERM to the drain. SIGUSR1 stays
 * with Node, which starts its inspector.
 */
export function handleSignals(fleet: Fleet<Member>, termDelay: number, log: (line: string) => void): void {
  const isTerminalGone = watchTerminal()
  let interrupted = false
  let terminated = false
  const handlers: Partial<Record<NodeJS.Signals, () => void>> = {
    SIGTERM: () => {
      if (!terminated) setTimeout(() => void fleet.stop(), termDelay).unref()
      terminated = true
    },
    SIGINT: () => {
      // Ctrl-C again. A second SIGTERM changes nothing, because several managers may each send one.
      if (interrupted && process.stdin.isTTY) fleet.kill(128 + constants.signals.SIGINT)
      interrupted = true
      void fleet.stop()
    },
    SIGQUIT: () => fleet.kill(128 + constants.signals.SIGQUIT),
    SIGHUP: () => {
      if (isTerminalGone()) {
        log('the terminal has gone away')
        void fleet.stop()
      } else void fleet.reload()
    },
    SIGTTIN: () => void fleet.scale(fleet.target + 1),
    SIGTTOU: () => void fleet.scale(Math.max(1, fleet.target - 1)),
  }
  for (const [signal, handle] of Object.entries(handlers)) process.on(signal, handle)
}
