#!/usr/bin/env node
// The command `async-accept`. Nothing else of the package loads this folder.
import { type Command, readCommandLine, UsageError } from './command-line.js'
import { ask, askStatus } from './control-client.js'
import type { Status } from './control-protocol.js'
import { showStatus } from './live-status.js'
import { run } from './run.js'
import { metricsText, statusText } from './status-text.js'

const formats = { text: statusText, json: (status: Status) => `${JSON.stringify(status)}\n`, prometheus: metricsText }

/** Returns the exit code. */
async function execute(command: Command): Promise<number> {
  switch (command.command) {
    case 'help':
      process.stdout.write(command.text)
      return 0
    case 'run':
      return run(command.options)
    case 'status': {
      if (command.watch) {
        await showStatus(command.name, formats[command.format], process.env, process.stdout)
        process.stderr.write('async-accept status: the supervisor has ended\n')
        return 0
      }
      const status = await askStatus(command.name, process.env)
      process.stdout.write(formats[command.format](status))
      return status.phase === 'running' && status.ready >= status.target ? 0 : 1
    }
    default: {
      const verdict = await ask(command.name, command, process.env)
      if (!verdict.ok) throw new Error(verdict.reason)
      return 0
    }
  }
}

// The terminal has gone away, or the reader of the pipe has ended. The workers serve on.
process.stderr.on('error', () => {})
const argv = process.argv.slice(2)
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // A reader of a pipe that has ended, such as head(1), has what it wanted.
  if (error.code !== 'EPIPE') complain(error)
  process.exit(1)
})
try {
  process.exitCode = await execute(readCommandLine(argv, process.env))
} catch (error) {
  complain(error as Error)
  process.exitCode = error instanceof UsageError ? 2 : 1
}
// Standard output may still have bytes for a pipe, so the process is not ended with process.exit().

function complain({ message }: Error): void {
  const command = ['async-accept', ...argv.slice(0, 1)].join(' ')
  process.stderr.write(`${command}: ${message.replaceAll('\n', ' ')}\n`)
}
