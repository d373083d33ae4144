// Parses the command line. Ends the process for --help and for invalid options.
import { basename } from 'node:path'
import { parseArgs } from 'node:util'

const help = `Usage: npm start -- [options]
       node examples/http2-machines.mjs [options]

An HTTP/2 server (with HTTP/1.1 as a fallback) in which each connection has its own
state machine, and each waiting machine has its own accept request.

Options:
  --port <number>           TCP port, 0 for any free one                  (default: 8443)
  --host <name or address>  address to listen on                 (default: all addresses)
  --machines <number>       number of waiting machines, 1 to 1000           (default: 20)
  --drain-timeout <seconds> how long Ctrl-C waits for pending requests      (default: 10)
  -h, --help                print this help and exit

Ctrl-C drains and exits with 0; a second Ctrl-C exits at once.
Exit codes: 0 drained, 1 cannot listen, 2 invalid option, 130 or 143 ended by a second signal.
`

export const wholeNumber = (min, max) => ({
  expected: `a whole number from ${min} to ${max}`,
  read: (text) => (/^\d{1,9}$/.test(text) && min <= Number(text) && Number(text) <= max ? Number(text) : undefined),
})

const text = { expected: 'a host name or an address', read: (given) => (/^[^\s-]\S*$/.test(given) ? given : undefined) }

const options = {
  port: { type: 'string', initial: 8443, ...wholeNumber(0, 65535) },
  host: { type: 'string', initial: undefined, ...text },
  machines: { type: 'string', initial: 20, ...wholeNumber(1, 1000) },
  'drain-timeout': { type: 'string', initial: 10, ...wholeNumber(0, 3600) },
  help: { type: 'boolean', short: 'h' },
}

const program = basename(process.argv[1], '.mjs')

/** Prints the reason in one line and ends the process. */
export function fail(exitCode, why) {
  console.error(`${program}: ${why}`)
  process.exit(exitCode)
}

const invalidOption = (why) => fail(2, `${why} (--help explains the options)`)

/** Returns the validated options: `{ port, host, machines, 'drain-timeout' }`. */
export function readCommandLine() {
  // Not strict: an error of the strict mode has more than one line.
  const { tokens } = parseArgs({ options, strict: false, allowPositionals: true, tokens: true })
  const result = Object.fromEntries(Object.entries(options).map(([name, { initial }]) => [name, initial]))
  for (const { kind, name, rawName, value } of tokens) {
    if (kind === 'option-terminator') continue
    if (kind === 'positional') invalidOption(`unexpected argument '${value}'`)
    if (!Object.hasOwn(options, name)) invalidOption(`unknown option '${rawName}'`)
    if (name === 'help') {
      process.stdout.write(help)
      process.exit(0)
    }
    const { expected, read } = options[name]
    if (value === undefined) invalidOption(`${rawName} needs a value, ${expected}`)
    result[name] = read(value)
    if (result[name] === undefined) invalidOption(`${rawName} must be ${expected}, not '${value}'`)
  }
  return result
}
