// Formats results for the terminal and for docs/benchmarks.md.
export const format = (cell) => {
  if (typeof cell !== 'object') return String(cell)
  const { median, least, most, digits } = cell
  const text = (value) => {
    if (value === Infinity) return '∞'
    return digits === 0 ? Math.round(value).toLocaleString('en') : value.toFixed(digits)
  }
  return least === undefined ? text(median) : `${text(median)} (${text(least)} to ${text(most)})`
}

const padded = (lines, separator, edge) => {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((cells) => cells[column].length)))
  return lines.map((cells) => {
    const body = cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(separator)
    return edge ? `| ${body} |` : body
  })
}

export function table({ title, columns, rows }) {
  return [title, ...padded([columns, ...rows.map((row) => row.map(format))], '  ', false), ''].join('\n')
}

function markdownTable({ columns, rows }) {
  const [head, ...body] = padded([columns, ...rows.map((row) => row.map(format))], ' | ', true)
  const rule = columns.map((_, i) => (i === 0 ? ' --- |' : ' ---: |')).join('')
  return [head, `|${rule}`, ...body].join('\n')
}

export const checkTable = (checks) => ({
  title: 'Targets',
  columns: ['what', 'target', 'measured', ''],
  rows: checks.map(({ what, most, measured, digits = 2 }) => [
    what,
    `at most ${most}`,
    { median: measured, digits },
    measured <= most ? 'met' : 'missed',
  ]),
})

/** Formats the answers to one question, on one or more versions of Node. `picture` is the file of its SVG. */
export function markdown({ about, title }, answers, picture) {
  const drawn = `${title}, Node ${answers.at(-1).version}`
  const lines = [`## ${title}`, '', about, '', `![${drawn}](${picture})`, '']
  for (const { version, rounds, tables, checks, losses } of answers) {
    lines.push(
      `### ${title}, Node ${version}`,
      '',
      `Median of ${rounds} rounds, with minimum and maximum in parentheses.`,
      '',
    )
    for (const each of [...tables, ...(checks.length > 0 ? [checkTable(checks)] : [])]) {
      lines.push(`${each.title}:`, '', markdownTable(each), '')
    }
    lines.push(losses.length > 0 ? 'Losses:' : 'Losses: none.', '')
    if (losses.length > 0) lines.push(...losses.map((loss) => `- ${loss}`), '')
  }
  return lines.join('\n').trimEnd()
}

/** Replaces the text between `<!-- <name> -->` and `<!-- end of <name> -->`. */
export function replaceBetweenMarkers(document, name, text) {
  const begin = `<!-- ${name} -->`
  const end = `<!-- end of ${name} -->`
  const from = document.indexOf(begin)
  const to = document.indexOf(end)
  if (from < 0 || to < from) throw new Error(`no "${begin}" followed by "${end}"`)
  return `${document.slice(0, from + begin.length)}\n\n${text}\n\n${document.slice(to)}`
}
