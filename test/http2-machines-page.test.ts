import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { chromium, type Tab } from './chromium.js'
import { until } from './helpers.js'
import { openEcho, type RunningMachines, startMachines } from './running-machines.js'

const schemes = ['light', 'dark'] as const
type Scheme = (typeof schemes)[number]

/** The contrast ratio of two colours, each as red, green and blue from 0 to 255 (WCAG 2.2). */
function contrast(a: readonly number[], b: readonly number[]): number {
  const luminance = (colour: readonly number[]) => {
    const [r, g, b] = colour.map((value) => {
      const part = value / 255
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    }) as [number, number, number]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const [darker, lighter] = [luminance(a), luminance(b)].sort((one, other) => one - other) as [number, number]
  return (lighter + 0.05) / (darker + 0.05)
}

async function openPage(tab: Tab, machines: RunningMachines): Promise<void> {
  await tab.send('Page.navigate', { url: machines.url() })
  await tab.waitFor(`document.getElementById('live')?.textContent.startsWith('Live')`)
}

const tileOf = (ref: number) =>
  `[...document.querySelectorAll('#machines li')].find((li) => / ${ref}\\b/.test(li.textContent))`

describe('The colours of the page of examples/http2-machines.mjs', () => {
  const css = readFileSync(new URL('../examples/http2-machines/page/style.css', import.meta.url), 'utf8')
  const blocks = [...css.matchAll(/:root \{([^}]*)\}/g)].map(([, block]) =>
    Object.fromEntries(
      [...(block as string).matchAll(/--([\w-]+): #([0-9a-f]{6});/g)].map(([, name, hex]) => [name, hex]),
    ),
  )
  const colours = Object.fromEntries(schemes.map((scheme, i) => [scheme, blocks[i]])) as Record<
    Scheme,
    Record<string, string>
  >
  const rgb = (hex = '') => hex.match(/../g)?.map((part) => Number.parseInt(part, 16)) ?? []
  const states = ['listening', 'handshake', 'connected', 'closing', 'gone']
  const pairs = [
    ...['text', 'soft', ...states].map((name) => [name, 'page']),
    ...states.map((state) => ['on-state', state]),
  ] as [string, string][]

  for (const scheme of schemes) {
    it(`have a contrast of at least 4.5 : 1 in the ${scheme} scheme`, () => {
      for (const [text, background] of pairs) {
        const ratio = contrast(rgb(colours[scheme][text]), rgb(colours[scheme][background]))
        assert.ok(ratio >= 4.5, `${text} on ${background}: ${ratio.toFixed(2)}`)
      }
    })
  }

  it('are defined for both schemes, and used by name', () => {
    assert.equal(blocks.length, 2)
    assert.deepEqual(Object.keys(colours.dark), Object.keys(colours.light))
    const rules = css.slice(css.lastIndexOf('--gone: #'))
    assert.deepEqual(rules.match(/(?<=[^-]color: |background: )(?!var\(--)[^;]*/g), null)
  })
})

describe('The page of examples/http2-machines.mjs in a browser', () => {
  it('shows machines as they change state, without a reload', async function () {
    const tab = await chromium(this)
    const machines = await startMachines(['--machines', '5'])
    await openPage(tab, machines)
    const { refs } = await machines.status()
    const next = Math.max(...refs)
    const session = await machines.session()
    const stream = await openEcho(session)
    const { connections } = await machines.status()
    const ref = connections.find(({ requests }) => requests?.[0]?.includes('/echo'))?.ref as number
    await tab.waitFor(`${tileOf(ref)}?.className === 'connected'`)
    await tab.waitFor(`${tileOf(next + 1)}?.className === 'listening'`)
    await tab.waitFor(`document.getElementById('connections').textContent.includes('POST /echo ...')`)
    session.close()
    await tab.waitFor(`${tileOf(ref)}?.className === 'closing'`)
    stream.end()
    await once(session, 'close')
    await tab.waitFor(
      `!${tileOf(ref)} && document.getElementById('connections').textContent.includes('POST /echo 200')`,
    )
    assert.equal(tab.loads, 1)
    assert.deepEqual(tab.complaints, [])
  })

  it('draws a chart with a text alternative', async function () {
    const tab = await chromium(this)
    const machines = await startMachines(['--machines', '5'])
    await openPage(tab, machines)
    const label = `document.getElementById('chart').getAttribute('aria-label')`
    // A browser may open more than one connection.
    const busy = `Number(/outstanding refs 5, busy machines ([0-9]+), backlog 0$/.exec(${label})?.[1])`
    const atFirst = await tab.waitFor<number>(busy)
    for (let i = 0; i < 5; i++) await machines.session()
    await tab.waitFor(`${busy} > ${atFirst} && ${busy} >= 6`)
    const points = await tab.evaluate<string[]>(
      `[...document.querySelectorAll('polyline')].map((line) => line.getAttribute('points'))`,
    )
    assert.equal(points.length, 3)
    for (const line of points) assert.match(line, /^(\d+\.\d,\d+\.\d ?){2,60}$/)
    assert.deepEqual(tab.complaints, [])
  })

  for (const scheme of schemes) {
    it(`has a contrast of at least 4.5 : 1 for each text in the ${scheme} scheme`, async function () {
      const tab = await chromium(this)
      const machines = await startMachines(['--machines', '5'])
      await tab.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
      await openPage(tab, machines)
      await machines.session()
      await tab.waitFor(`document.querySelectorAll('#machines .connected').length >= 2`)
      const texts = await tab.evaluate<{ text: string; colour: string; background: string }[]>(`
        [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility() &&
          [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())).map((element) => {
          let painted = element
          while (getComputedStyle(painted).backgroundColor === 'rgba(0, 0, 0, 0)') painted = painted.parentElement
          return { text: element.textContent, colour: getComputedStyle(element).color,
            background: getComputedStyle(painted).backgroundColor }
        })`)
      const rgb = (colour: string) => {
        assert.match(colour, /^rgb\(/)
        return colour.match(/\d+/g)?.map(Number) as number[]
      }
      assert.ok(texts.length > 40, JSON.stringify(texts))
      const dark = contrast(rgb(texts[0]?.background as string), [255, 255, 255]) > 10
      assert.equal(dark, scheme === 'dark')
      for (const { text, colour, background } of texts) {
        const ratio = contrast(rgb(colour), rgb(background))
        assert.ok(ratio >= 4.5, `'${text}': ${colour} on ${background} is ${ratio.toFixed(2)}`)
      }
    })
  }

  it('pauses and resumes by keyboard', async function () {
    const tab = await chromium(this)
    const machines = await startMachines(['--machines', '5'])
    await openPage(tab, machines)
    const press = async (key: string, code: string, text?: string) => {
      await tab.send('Input.dispatchKeyEvent', {
        type: 'keyDown',
        key,
        code,
        text,
        windowsVirtualKeyCode: key === 'Tab' ? 9 : 13,
      })
      await tab.send('Input.dispatchKeyEvent', { type: 'keyUp', key, code })
    }
    await press('Tab', 'Tab')
    assert.equal(await tab.evaluate('document.activeElement.id'), 'pause')
    await press('Enter', 'Enter', '\r')
    await tab.waitFor(`document.getElementById('live').textContent === 'Paused.'`)
    const closed = () =>
      machines
        .status()
        .then(({ connections }) => !connections.some(({ requests }) => requests?.includes('GET /events ...')))
    await until(closed)
    await press('Enter', 'Enter', '\r')
    await tab.waitFor(`document.getElementById('live').textContent.startsWith('Live')`)
    assert.deepEqual(tab.complaints, [])
  })

  it('says that the server has stopped, and does not hold its drain', async function () {
    const tab = await chromium(this)
    const machines = await startMachines()
    await openPage(tab, machines)
    machines.signal('SIGINT')
    assert.equal(await machines.ended, 0)
    assert.match(machines.stdout, /\ndrained\n$/)
    assert.doesNotMatch(machines.stdout, /drain timeout/)
    await tab.waitFor(`document.getElementById('live').textContent === 'The server has stopped.'`)
  })

  it('follows the next server on the port, and says when that one is lost', async function () {
    const tab = await chromium(this)
    const first = await startMachines()
    await openPage(tab, first)
    const says = (text: string) => tab.waitFor(`document.getElementById('live').textContent.startsWith('${text}')`)
    first.signal('SIGINT')
    await first.ended
    await says('The server has stopped.')
    const second = await startMachines(['--port', String(first.port)])
    await says('Live')
    second.signal('SIGKILL')
    await says('Connection lost.')
    assert.equal(tab.loads, 1)
  })

  it('says that there is no server when it resumes', async function () {
    const tab = await chromium(this)
    const machines = await startMachines()
    await openPage(tab, machines)
    machines.signal('SIGINT')
    await tab.waitFor(`document.getElementById('live').textContent === 'The server has stopped.'`)
    await tab.evaluate(`document.getElementById('pause').click()`)
    await tab.waitFor(`document.getElementById('live').textContent === 'Paused.'`)
    await tab.evaluate(`document.getElementById('pause').click()`)
    await tab.waitFor(`document.getElementById('live').textContent === 'Connection lost. Trying again.'`)
  })
})
