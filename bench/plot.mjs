// Percentiles and bars as SVGs, readable on light and dark backgrounds.
import { format } from './report.mjs'

const width = 760
const height = 460
const left = 70
const right = 730
const top = 96
const bottom = 400

// Colours from the palette of Okabe and Ito, which is safe for red-green colour blindness. The dashes are for print.
const strokes = [
  { light: '#0072b2', dark: '#56b4e9', dash: 'none' },
  { light: '#d55e00', dark: '#e69f00', dash: '7 3' },
  { light: '#a0527f', dark: '#cc79a7', dash: '2 3' },
  { light: '#00795a', dark: '#2fc79a', dash: '10 3 2 3' },
]

const ticksX = [0, 50, 90, 99, 99.9]
const least = 0.1
const ticksY = [0.1, 1, 10, 100]

// A logarithmic scale of rarity: each tenfold step (90 %, 99 %, 99.9 %) has the same width.
const x = (percent) => left + ((right - left) * -Math.log10(1 - percent / 100)) / 3

const modes = [
  { mode: 'light', ink: '#1f2328', ground: '#ffffff', grid: '#d8dee4', other: '#8c959f' },
  { mode: 'dark', ink: '#e6edf3', ground: '#0d1117', grid: '#30363d', other: '#7d8590' },
]

const style = () => {
  const [light, dark] = modes.map(({ mode, ink, ground, grid, other }) =>
    [
      `svg { background: ${ground}; font: 13px system-ui, sans-serif; }`,
      `text { fill: ${ink}; } .grid { stroke: ${grid}; } .spread { stroke: ${ink}; } .other { fill: ${other}; }`,
      ...strokes.map((stroke, i) => `.c${i} { stroke: ${stroke[mode]}; } .f${i} { fill: ${stroke[mode]}; }`),
    ].join(' '),
  )
  return `${light}\n@media (prefers-color-scheme: dark) { ${dark} }`
}

const escaped = (text) => String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

const text = (at, [px, py], anchor = 'middle', more = '') =>
  `<text x="${px}" y="${py}" text-anchor="${anchor}"${more}>${escaped(at)}</text>`

const line = ([x1, y1, x2, y2], attributes) =>
  `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke-width="1" ${attributes}/>`

const coordinate = (value) => value.toFixed(1)

// A screen reader reads the title. Browsers and GitHub choose the colours by the colour scheme of the reader.
const svg = (title, size, content) =>
  `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${size}" role="img" aria-labelledby="title">`,
    `<title id="title">${escaped(title)}</title>`,
    `<style>\n${style()}\n</style>`,
    ...content,
    '</svg>',
  ].join('\n')}\n`

/** `curves`: at most four of { name, points: [percent, ms][] }. */
export function percentilePlot({ title, curves }) {
  const most = Math.max(100, ...curves.flatMap(({ points }) => points.map(([, ms]) => ms)))
  const y = (ms) => {
    const share = Math.log10(Math.max(ms, least) / least) / Math.log10(most / least)
    return bottom - (bottom - top) * share
  }
  let next = left
  const legend = curves.flatMap(({ name }, i) => {
    const at = next
    next += 62 + 7 * name.length
    const drawn = `class="c${i}" stroke-width="2.5" stroke-dasharray="${strokes[i].dash}"`
    return [`<path d="M${at} 66h28" fill="none" ${drawn}/>`, text(name, [at + 34, 70], 'start')]
  })
  return svg(title, height, [
    text(title, [left, 34], 'start', ' font-size="17"'),
    ...legend,
    ...ticksX.flatMap((tick) => [
      line([coordinate(x(tick)), top, coordinate(x(tick)), bottom], 'class="grid"'),
      text(`${tick} %`, [coordinate(x(tick)), bottom + 20]),
    ]),
    ...ticksY.flatMap((tick) => [
      line([left, coordinate(y(tick)), right, coordinate(y(tick))], 'class="grid"'),
      text(`${tick} ms`, [left - 8, coordinate(y(tick) + 4)], 'end'),
    ]),
    ...curves.map(({ points }, i) => {
      const path = points.map(([percent, ms]) => `${coordinate(x(percent))} ${coordinate(y(ms))}`).join('L')
      const drawn = `class="c${i}" stroke-width="2.5" stroke-dasharray="${strokes[i].dash}"`
      return `<path d="M${path}" fill="none" ${drawn}/>`
    }),
    text('share of the quick requests answered within the time', [(left + right) / 2, bottom + 44]),
  ])
}

const barHeight = 14
const barsRight = 640
// An upper bound of the mean width of a letter, which depends on the fonts of the reader.
const letter = 7.7

/** The bars of a row, one for each column, from `start` to the right. */
function drawRow({ label, ours, cells }, { start, most, y }) {
  const end = (value) => start + ((barsRight - start) * Math.min(value, most)) / most
  const drawn = [text(label, [start - 8, y + (cells.length * barHeight) / 2 + 4], 'end')]
  for (const [i, cell] of cells.entries()) {
    const at = y + i * barHeight
    if (typeof cell !== 'object') {
      drawn.push(text(cell, [start + 6, at + 11], 'start'))
      continue
    }
    const colour = cells.length > 1 ? `f${i}` : ours ? 'f0' : 'other'
    const { median, least = median, most: greatest = median } = cell
    const size = `width="${coordinate(end(median) - start)}" height="${barHeight - 2}"`
    drawn.push(`<rect x="${start}" y="${at}" ${size} class="${colour}"/>`)
    if (greatest > least) {
      const middle = at + barHeight / 2 - 1
      drawn.push(line([coordinate(end(least)), middle, coordinate(end(greatest)), middle], 'class="spread"'))
    }
    drawn.push(text(format({ ...cell, least: undefined }), [coordinate(end(greatest) + 6), at + 11], 'start'))
  }
  return drawn
}

/**
 * Draws the tables that have `bars`, one or more of { columns, title?, of?(row), label?(row), ours?(row) }: the names of
 * the columns that share a scale, what they show, whether and under which name a row is drawn, and whether it is a
 * contender of this package.
 */
export function barPlot(title, tables) {
  const drawn = [text(title, [20, 34], 'start', ' font-size="17"')]
  let y = 48
  const panels = tables.flatMap(({ bars = [], ...table }) => [bars].flat().map((each) => ({ ...table, bars: each })))
  for (const { title: name, columns, rows, bars } of panels) {
    const { of = () => true, label = (row) => row[0], ours = () => true, title: shown = name } = bars
    const places = bars.columns.map((column) => columns.indexOf(column))
    const all = rows.filter(of).map((row) => ({
      label: label(row),
      ours: ours(row),
      cells: places.map((place) => row[place]).filter((cell) => cell !== '-'),
    }))
    const medians = all.flatMap(({ cells }) => cells.map(({ median }) => median ?? 0))
    const ends = all.flatMap(({ cells }) => cells.map(({ most }) => most ?? 0))
    // One outlier does not make all bars short: its line ends at the edge.
    const most = Math.min(Math.max(...ends, ...medians), 1.5 * Math.max(...medians)) || 1
    const start = 24 + letter * Math.max(...all.map((row) => row.label.length))
    y += 34
    drawn.push(text(shown, [20, y], 'start', ' font-weight="600"'))
    y += 12
    if (places.length > 1) {
      let next = start
      for (const [i, column] of bars.columns.entries()) {
        drawn.push(`<rect x="${next}" y="${y}" width="12" height="12" class="f${i}"/>`)
        drawn.push(text(column, [next + 18, y + 11], 'start'))
        next += 40 + letter * column.length
      }
      y += 22
    }
    const from = y
    for (const row of all) {
      drawn.push(...drawRow(row, { start, most, y }))
      y += row.cells.length * barHeight + 6
    }
    drawn.push(line([start, from - 3, start, y - 3], 'class="spread"'))
  }
  y += 24
  drawn.push(text('Bars: median. Lines: minimum to maximum.', [20, y], 'start'))
  if (panels.some(({ bars }) => bars.ours)) {
    const key = { f0: 'async-accept', other: 'compared with' }
    for (const [i, [colour, meaning]] of Object.entries(key).entries()) {
      drawn.push(`<rect x="${360 + 120 * i}" y="${y - 11}" width="12" height="12" class="${colour}"/>`)
      drawn.push(text(meaning, [378 + 120 * i, y], 'start'))
    }
  }
  return svg(title, y + 18, drawn)
}
