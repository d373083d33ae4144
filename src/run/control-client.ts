import net from 'node:net'
import { type Answer, maxLine, type Request, readLine, type Status } from './control-protocol.js'
import { findSupervisors } from './run-directory.js'

// ms. A supervisor that is stopped by SIGSTOP answers nothing.
const statusTimeout = 3_000

/** Sends a request to a supervisor. Rejects with one line for the operator if none answers. */
export async function ask(name: string | undefined, request: Request, env: NodeJS.ProcessEnv): Promise<Answer> {
  const found = findSupervisors(env).filter(([each]) => name === undefined || each === name)
  const running = new Map<string, string>()
  for (const [each, path] of found) if (!running.has(each) && (await isListening(path))) running.set(each, path)
  // One that was named is asked in any case: the error says why it does not answer, such as EACCES.
  const [only = name && found[0]?.[1]] = running.values()
  if (!only) throw new Error(`no supervisor ${name ? `${name} ` : ''}runs`)
  if (running.size > 1)
    throw new Error(`several supervisors run: choose one with --name: ${[...running.keys()].sort().join(', ')}`)
  return askAt(only, request)
}

/** Asks a supervisor for its status. Rejects as `ask` does, and with the reason if it has none yet. */
export async function askStatus(name: string | undefined, env: NodeJS.ProcessEnv): Promise<Status> {
  const answer = await ask(name, { command: 'status' }, env)
  if (answer.status === undefined) throw new Error(answer.ok ? 'no status' : answer.reason)
  return answer.status
}

function askAt(path: string, request: Request): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(path)
    let cause = 'it has ended'
    socket.once('error', (error) => {
      cause = error.message
    })
    // The others are answered when their work is done.
    if (request.command === 'status') {
      socket.setTimeout(statusTimeout, () => {
        cause = `no status for ${statusTimeout / 1000} s`
        socket.destroy()
      })
    }
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
