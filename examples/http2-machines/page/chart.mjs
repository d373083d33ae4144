// A chart of the last updates, drawn as SVG: one line for each series.

const updates = 60
const width = 600
const height = 120
const margin = 6 // keeps a line at the edge visible

export class Chart {
  #svg
  #legend
  #history = []

  constructor(svg, legend) {
    this.#svg = svg
    this.#legend = legend
  }

  /** Adds one value for each series: `{ name: value }`. */
  add(values) {
    this.#history.push(values)
    if (this.#history.length > updates) this.#history.shift()
    const names = Object.keys(values)
    const most = Math.max(1, ...this.#history.flatMap((old) => Object.values(old)))
    const now = names.map((name) => `${name} ${values[name]}`).join(', ')
    this.#svg.setAttribute('aria-label', `The last ${updates} updates, at most ${most}. Now: ${now}`)
    this.#svg.replaceChildren(...names.map((name, series) => this.#line(name, series, most)))
    this.#legend.textContent = ''
    for (const [series, name] of names.entries()) {
      const entry = document.createElement('span')
      entry.className = `series-${series}`
      entry.textContent = `${name} ${values[name]}`
      this.#legend.append(entry, ' ')
    }
  }

  #line(name, series, most) {
    const step = width / (updates - 1)
    const first = updates - this.#history.length
    const points = this.#history.map((values, i) => {
      const y = height - margin - (values[name] / most) * (height - 2 * margin)
      return `${((first + i) * step).toFixed(1)},${y.toFixed(1)}`
    })
    // One point alone would be no line.
    if (points.length === 1) points.push(points[0].replace(/^[^,]+/, String(width - step)))
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline')
    line.setAttribute('class', `series-${series}`)
    line.setAttribute('points', points.join(' '))
    return line
  }
}
