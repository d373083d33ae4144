import type tty from 'node:tty'
import { styleText } from 'node:util'

/** Writes one line about an event: `'good'` if a step is done, `'bad'` if something has failed. */
export type Log = (line: string, tone?: 'good' | 'bad') => void

/** Writes plain lines; on a terminal with colours, unless NO_COLOR is set, and the time since the start. */
export function logTo(output: tty.WriteStream): Log {
  if (!output.isTTY) return (line) => output.write(`async-accept: ${line}\n`)
  const paint = (format: 'dim' | 'green' | 'red', text: string) =>
    output.hasColors() ? styleText(format, text, { stream: output }) : text
  return (line, tone) => {
    const time = paint('dim', `${(performance.now() / 1000).toFixed(1)} s`)
    const text = tone === undefined ? line : paint(tone === 'good' ? 'green' : 'red', line)
    output.write(`async-accept ${time}: ${text}\n`)
  }
}
