import net from 'node:net'
import { type Answer, maxLine, type Request, readLine, type Status } from './control-protocol.js'
import { findSupervisors } from './run-directory.js'

/** Sends a request to a supervisor. Rejects with one line for the operator if none answers. */
export async function ask(name: string | undefined, request: Request, env: NodeJS.ProcessEnv): Promise<Answer> {
  const supervisors = findSupervisors(env)
  if (name !== undefined) {
    const path = supervisors.get(name)
    if (path === undefined) throw new Error(`no supervisor ${name} runs`)
    return askAt(path, request)
  }
  const running = new Map<string, string>()
  for (const [each, path] of supervisors) if (await isListening(path)) running.set(each, path)
  const [only] = running.values()
  if (only === undefined) throw new Error('no supervisor runs')
  if (running.size > 1)
    throw new Error(`several supervisors run: choose one with --name: ${[...running.keys()].join(', ')}`)
  return askAt(only, request)
}

function askAt(path: string, request: Request): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(path)
    let cause = 'it has ended'
    socket.once('error', (error) => {
      cause = error.message
    })
    socket.once('connect', () => socket.write(`${JSON.stringify(request)}\n`))
    readLine(
      socket,
      maxLine,
      (line) => {
        socket.destroy()
        resolve(JSON.parse(line))
      },
      () => process.nextTick(() => reject(new Error(`the supervisor does not answer: ${cause}`))),
    )
  })
}

// A supervisor that was killed has left its socket.
function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(path)
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}

/** Describes a status for a terminal. */
export function statusText(status: Status): string {
  const { name, pid, phase, target, ready, generation, sockets, workers } = status
  const listening = sockets.map((each) => `${each.name} (${each.address})`).join(', ') || 'nothing'
  const lines = workers.map(({ pid, state, stale, age, status }) => {
    const note = stale ? ', to be replaced' : ''
    return `  ${String(pid).padStart(7)}  ${`${state}${note}`.padEnd(22)}  ${formatAge(age)}  ${status ?? ''}`.trimEnd()
  })
  return [
    `${name} (pid ${pid}): ${phase}, ${ready} of ${target} workers are ready, generation ${generation}`,
    `listens on ${listening}`,
    ...lines,
    '',
  ].join('\n')
}

function formatAge(seconds: number): string {
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ]
  if (days > 0) return `${days} d ${hours} h`
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`
}
