import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { startNode } from './helpers.js'

/** An example in a separate process, and its output so far. */
export class RunningExample {
  stdout = ''
  stderr = ''
  readonly child: ChildProcess
  /** Resolves when the process has exited, with its exit code or signal. */
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

  /** Resolves with the first match of `pattern` in the output, past or future. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.stdout)
      if (match !== null) return match
      const more = once(this.child.stdout as NodeJS.ReadableStream, 'data')
      const end = await Promise.race([more.then(() => undefined), this.ended])
      if (end !== undefined && !pattern.test(this.stdout)) {
        throw new Error(`exited with ${end} without printing ${pattern}:\n${this.stdout}${this.stderr}`)
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
