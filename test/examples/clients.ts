import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { cleanUp, type Finished, nodeEnvironment } from '../helpers.js'
import { type RunningExample, startExample } from '../running-example.js'

/** Runs a client program until it exits. Its stdin stays open until then. */
export async function run(program: string, ...args: string[]): Promise<Finished> {
  const child = spawn(program, args, { env: nodeEnvironment() })
  cleanUp(() => child.kill('SIGKILL'))
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  return { code, signal, stdout, stderr }
}

/** A Python program that talks to `port`. It has the socket `s`, and its output is the result. */
export async function python(port: number, script: string): Promise<string> {
  const program = ['import socket, sys', 's = socket.create_connection(("127.0.0.1", int(sys.argv[1])))', script]
  const { code, stdout, stderr } = await run('python3', '-c', program.join('\n'), String(port))
  if (code !== 0) throw new Error(`python3: ${stderr}`)
  return stdout
}

/** The output of a request with curl. */
export const curl = (...args: string[]) => run('curl', '--silent', '--max-time', '20', ...args)

/** Starts an example that prints its ports in its first line. */
export async function startOnPort(name: string, ...args: string[]): Promise<[RunningExample, ...number[]]> {
  const example = startExample(name, args)
  const [line] = await example.says(/^.*\n/)
  const ports = [...line.matchAll(/port (\d+)/g)].map(([, port]) => Number(port))
  return [example, ...ports]
}
