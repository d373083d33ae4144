import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { startNode } from './helpers.js'

/** An example that runs as a process of its own, and what it has said so far. */
export class RunningExample {
  stdout = ''
  stderr = ''
  readonly child: ChildProcess
  /** When it has ended, with its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>

  constructor(child: ChildProcess) {
    this.child = child
    child.stdout?.setEncoding('utf8').on('data', (data) => {
      this.stdout += data
    })
    child.stderr?.setEncoding('utf8').on('data', (data) => {
      this.stderr += data
    })
    this.ended = once(child, 'close').then(([code, signal]) => code ?? signal)
  }

  /** The first match of `pattern` in what it writes, now or later. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.stdout)
      if (match !== null) return match
      const more = once(this.child.stdout as NodeJS.ReadableStream, 'data')
      const end = await Promise.race([more.then(() => undefined), this.ended])
      if (end !== undefined && !pattern.test(this.stdout)) {
        throw new Error(`ended with ${end} without saying ${pattern}:\n${this.stdout}${this.stderr}`)
      }
    }
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name)
  }
}

export function startExample(name: string, args: readonly string[] = []): RunningExample {
  return new RunningExample(startNode(`examples/${name}`, args))
}
