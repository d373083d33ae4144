import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join, resolve } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Status } from '../../src/run/control-protocol.js'
import { cleanUp, type Finished, nodeEnvironment, temporaryDirectory, until } from '../helpers.js'
import { RunningExample } from '../running-example.js'

/** The file of the command `async-accept`. */
export const command = fileURLToPath(new URL('../../dist/run/main.js', import.meta.url))

/** A program that answers with its pid. It listens on a port that the sockets named `web` are mapped to. */
export const answering = `
  import http from 'node:http'
  http.createServer((request, response) => response.end(String(process.pid))).listen(3000)
`

// Runs a command on a terminal of its own, and prints its pid. When standard input ends, the terminal goes away.
const terminalProgram = `
import os, pty, sys, select
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
print(f'pid {pid}.', flush=True)
while True:
    for each in select.select([0, fd], [], [])[0]:
        data = os.read(each, 4096)
        if each == 0 and not data:
            os.close(fd)
            os.waitpid(pid, 0)
            sys.exit(0)
        os.write(1 if each == fd else fd, data)
`

/** Precedes a command that shall run on a terminal of its own. When standard input ends, the terminal goes away. */
export const onTerminal = ['python3', '-c', terminalProgram]

export interface SupervisedOptions {
  env?: NodeJS.ProcessEnv
  /** The options of `run`, without the address. */
  options?: readonly string[]
  /** The program and its arguments. Default: the file `server.mjs`. */
  program?: readonly string[]
  addresses?: readonly string[]
  /** Whether the program is in a directory of the package, so that it can import the package by its name. */
  inPackage?: boolean
  /** What precedes Node on the command line. */
  before?: readonly string[]
  /** Whether the directory of the program is the current directory. */
  inDirectory?: boolean
  /** Whether standard input is a pipe. */
  input?: boolean
}

/** A supervisor in a process of its own, with its own directory for programs and for control sockets. */
export class Supervised {
  readonly directory: string
  readonly run: RunningExample
  readonly #env: NodeJS.ProcessEnv

  /** `code` is the text of the program. */
  constructor(
    code: string,
    { env = {}, options = [], program, addresses, inPackage, before = [], input, inDirectory }: SupervisedOptions = {},
  ) {
    this.directory = inPackage ? directoryInPackage() : temporaryDirectory()
    // Other users may enter, for `--user`.
    chmodSync(this.directory, 0o755)
    const run = join(this.directory, 'run')
    this.#env = { ...nodeEnvironment(), ASYNC_ACCEPT_INHERIT: '3000=web', ASYNC_ACCEPT_RUN_DIRECTORY: run, ...env }
    this.write(code)
    const listen = (addresses ?? ['web=127.0.0.1:0']).flatMap((address) => ['-l', address])
    const words = [
      ...before,
      process.execPath,
      command,
      'run',
      ...listen,
      ...options,
      ...(program ?? [join(this.directory, 'server.mjs')]),
    ]
    const stdio = [input ? 'pipe' : 'ignore', 'pipe', 'pipe'] as const
    const child = spawn(words[0] as string, words.slice(1), {
      env: this.#env,
      cwd: inDirectory ? this.directory : undefined,
      stdio: [...stdio],
    })
    this.run = new RunningExample(child)
    cleanUp(async () => {
      child.kill('SIGQUIT')
      await this.run.ended
    })
  }

  get pid(): number {
    return this.run.child.pid as number
  }

  /** Replaces the program, at once. */
  write(code: string): void {
    const temporary = join(this.directory, '.server.mjs')
    writeFileSync(temporary, code)
    renameSync(temporary, join(this.directory, 'server.mjs'))
  }

  /** Runs another command, such as `reload`. */
  async control(...words: string[]): Promise<Finished> {
    const child = this.startControl(words)
    const closed = once(child, 'close')
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
    const [code, signal] = await closed
    return { code, signal, stdout, stderr }
  }

  /** Starts another command. `before` precedes Node on the command line. */
  startControl(words: readonly string[], before: readonly string[] = []) {
    const [program = '', ...args] = [...before, process.execPath, command, ...words]
    // Some of `before` end with their standard input.
    const child = spawn(program, args, {
      env: this.#env,
      stdio: [before.length > 0 ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    })
    cleanUp(() => child.kill('SIGKILL'))
    return child as ChildProcessByStdio<Writable | null, Readable, Readable>
  }

  async status(): Promise<Status> {
    const { stdout, stderr } = await this.control('status', '--json')
    if (stdout === '') throw new Error(stderr)
    return JSON.parse(stdout)
  }

  /** The pids of the workers that are ready, in the order of their start. */
  async workers(): Promise<number[]> {
    const { workers } = await this.status()
    return workers.filter(({ state }) => state === 'ready').map(({ pid }) => pid as number)
  }

  /** Resolves when `count` lines of the log match. */
  async logs(pattern: RegExp, count = 1): Promise<void> {
    const all = new RegExp(pattern, 'g')
    await until(() => {
      if (this.run.child.exitCode !== null) throw new Error(`the supervisor has exited:\n${this.run.stderr}`)
      return (this.run.stderr.match(all) ?? []).length >= count
    })
  }

  /** Starts, and resolves when `count` workers are ready. */
  async ready(count: number): Promise<this> {
    await this.logs(/is ready/, count)
    return this
  }

  get port(): number {
    return Number(/web \(\S+ port (\d+)\)/.exec(this.run.stderr)?.[1])
  }

  /** Sends a request on a new connection, and resolves with the answer. */
  async request(path = '/'): Promise<string> {
    const request = http.get({ host: '127.0.0.1', port: this.port, path, agent: false })
    const [response] = await once(request, 'response')
    return text(response)
  }
}

function directoryInPackage(): string {
  const directory = mkdtempSync('build/run-')
  cleanUp(() => rmSync(directory, { recursive: true }))
  return resolve(directory)
}

/** Whether a process exists and has not ended. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

/** Starts a supervisor, and waits until its workers are ready. */
export const start = (workers: number, code = answering, ...options: string[]) =>
  new Supervised(code, { options: ['-n', String(workers), ...options] }).ready(workers)
