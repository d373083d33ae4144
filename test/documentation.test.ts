import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { posix } from 'node:path'
import * as asyncAccept from '../src/index.js'
import { cleanUp, runNode } from './helpers.js'

const read = (file: string) => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')

interface Snippet {
  title: string
  code: string
  output: string
}

// A program is a block of js followed by a block of text, which is its output.
const program = /```js\n((?:(?!```).)*)```\n\n```text\n(.*?)```/gs

function snippets(file: string): Snippet[] {
  const blocks = read(file).matchAll(program)
  return [...blocks].map(([, code = '', output = ''], index) => ({ title: `${file} ${index + 1}`, code, output }))
}

const withoutCode = (markdown: string) => markdown.replace(/^ *```.*?^ *```$/gms, '')

interface Heading {
  level: number
  text: string
  /** The name of the heading in links, as GitHub forms it. */
  anchor: string
}

function headings(file: string): Heading[] {
  const uses = new Map<string, number>()
  return [...withoutCode(read(file)).matchAll(/^(#+) (.*)$/gm)].map(([, marks = '', text = '']) => {
    const plain = text.replaceAll('\\', '')
    const name = plain
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\-_ ]/gu, '')
      .replaceAll(' ', '-')
    const use = uses.get(name) ?? 0
    uses.set(name, use + 1)
    return { level: marks.length, text: plain, anchor: use === 0 ? name : `${name}-${use}` }
  })
}

interface Section {
  /** The heading of the second level above it. */
  chapter: string
  heading: string
  body: string
}

/** The sections of docs/api.md below headings of the second and third level. */
function sectionsOfApi(): Section[] {
  let chapter = ''
  const parts = read('docs/api.md').split(/^(?=###? )/m)
  return parts.slice(1).map((part) => {
    const [line = ''] = part.split('\n', 1)
    const [marks, heading = ''] = line.replaceAll('\\', '').split(/ (.*)/)
    if (marks === '##') chapter = heading
    return { chapter, heading, body: part.slice(line.length) }
  })
}

/** The declarations of a class or an interface, as tsc prints them, without internal ones. */
function declarationOf(file: string, pattern: string): string {
  return new RegExp(`^export (?:declare )?${pattern}.*?^\\}`, 'ms').exec(read(`dist/${file}.d.ts`))?.[0] ?? ''
}

const publicMember = /^ {4}(static )?(get |readonly )?(?!constructor)(\[Symbol\.\w+\]|\w+)(\(|:)/gm

/** The headings that the public members of a class have in docs/api.md, without the parameters of methods. */
function headingsOfMembers(name: string, file: string, object: string): string[] {
  const members = declarationOf(file, `class ${name} `).matchAll(publicMember)
  return [...members].map(([, isStatic, isProperty, member = '', mark]) => {
    const dot = member.startsWith('[') ? '' : '.'
    return `${isStatic ? name : object}${dot}${member}${!isProperty && mark === '(' ? '(' : ''}`
  })
}

function headingsOfEvents(name: string, file: string): string[] {
  const events = declarationOf(file, `interface ${name} `).matchAll(/^ {4}(\w+): \[/gm)
  return [...events].map(([, event]) => `Event: '${event}'`)
}

const classes = [
  { name: 'Listener', file: 'accept/listener', object: 'listener', events: 'ListenerEvents' },
  { name: 'Connection', file: 'accept/connection', object: 'connection' },
  { name: 'Serving', file: 'serve/serving', object: 'serving', events: 'ServingEvents' },
  { name: 'FdChannel', file: 'handover/fd-channel', object: 'channel' },
  { name: 'ReceivedFd', file: 'handover/received-fd', object: 'receivedFd' },
]

// The heading of a function or a method begins with its name and a parenthesis, that of anything else is its name.
const matches = (heading: string, wanted: string) =>
  wanted.endsWith('(') ? heading.startsWith(wanted) : heading === wanted

const hasProgram = ({ body }: Section) => body.search(program) >= 0

describe('The documentation', () => {
  for (const file of ['README.md', 'docs/api.md', 'docs/installing.md', 'docs/migrating.md', 'docs/operations.md']) {
    it(`has programs in ${file}`, () => assert.notEqual(snippets(file).length, 0))

    for (const { title, code, output } of snippets(file)) {
      it(`shows the output of program ${title}`, async () => {
        // In a directory of the package, so that the program can import the package by its name.
        const directory = mkdtempSync('build/documentation-')
        cleanUp(() => rmSync(directory, { recursive: true }))
        writeFileSync(`${directory}/program.mjs`, code)
        const finished = await runNode(`${directory}/program.mjs`)
        assert.deepEqual(finished, { code: 0, signal: null, stdout: output, stderr: '' })
      })
    }
  }

  it('shows the loop of examples/echo.mjs in README.md', () => {
    const example = read('examples/echo.mjs')
    const [, shown = ''] = /```js\n(.*?)```/s.exec(read('README.md')) ?? []
    const loop = shown.slice(shown.indexOf('for await'))
    assert.notEqual(loop, '')
    assert.ok(example.includes(loop.trim()), 'examples/echo.mjs and README.md have different loops')
  })

  it('serves and drains with the last program of README.md', async () => {
    const [code = ''] = [...read('README.md').matchAll(/```js\n(.*?)```/gs)].map(([, block]) => block).slice(-1)
    assert.ok(code.includes('port: 3000'))
    const client = `
      const response = await fetch(\`http://127.0.0.1:\${server.address().port}\`)
      process.stdout.write(await response.text())
      process.kill(process.pid, 'SIGTERM')
    `
    const directory = mkdtempSync('build/documentation-')
    cleanUp(() => rmSync(directory, { recursive: true }))
    writeFileSync(`${directory}/program.mjs`, code.replace('port: 3000', 'port: 0') + client)
    const finished = await runNode(`${directory}/program.mjs`)
    assert.deepEqual(finished, { code: 0, signal: null, stdout: 'hello\n', stderr: '' })
  })

  it('lists every error code of the package in docs/api.md', () => {
    const api = read('docs/api.md')
    assert.deepEqual(
      Object.keys(asyncAccept.codes).filter((code) => !api.includes(`\`${code}\``)),
      [],
    )
  })

  it('describes every exported value in docs/api.md, each with an example', () => {
    const sections = sectionsOfApi()
    const wanted = Object.entries(asyncAccept).map(([name, value]) => {
      if (typeof value !== 'function') return name
      return classes.some((each) => each.name === name) ? `Class: ${name}` : `${name}(`
    })
    assert.deepEqual(
      wanted.filter((name) => !sections.some((each) => matches(each.heading, name) && hasProgram(each))),
      [],
    )
  })

  for (const { name, file, object, events } of classes) {
    it(`describes every public member and event of ${name} in docs/api.md`, () => {
      const members = headingsOfMembers(name, file, object)
      assert.notEqual(members.length, 0)
      const wanted = [...members, ...(events === undefined ? [] : headingsOfEvents(events, file))]
      const sections = sectionsOfApi().filter(({ chapter }) => chapter === `Class: ${name}`)
      assert.deepEqual(
        wanted.filter((each) => !sections.some(({ heading }) => matches(heading, each))),
        [],
      )
    })
  }

  it('has an example for every function, method and event in docs/api.md', () => {
    const sections = sectionsOfApi().filter(({ heading }) => /\(|^Event: |^Channel: /.test(heading))
    assert.deepEqual(
      sections.filter((section) => !hasProgram(section)).map(({ heading }) => heading),
      [],
    )
  })

  it('lists every exported type in docs/api.md', () => {
    const exported = [...read('src/index.ts').matchAll(/\btype (?:\{([^}]*)\}|(\w+))/g)]
    const types = exported.flatMap(([, list, name = '']) => list?.split(',').map((each) => each.trim()) ?? name)
    const list = sectionsOfApi().find(({ heading }) => heading === 'TypeScript')?.body ?? ''
    assert.notEqual(types.length, 0)
    assert.deepEqual(
      types.filter((type) => type !== '' && !list.includes(`\`${type}\``)),
      [],
    )
  })

  it('lists every section of docs/api.md in its table of contents', () => {
    const [contents = ''] = /^\* \[.*?\n\n/ms.exec(read('docs/api.md')) ?? []
    const listed = [...contents.matchAll(/\]\(#(.*?)\)$/gm)].map(([, anchor]) => anchor)
    const anchors = headings('docs/api.md').filter(({ level }) => level === 2 || level === 3)
    assert.deepEqual(
      listed,
      anchors.map(({ anchor }) => anchor),
    )
  })

  it('has no broken links', () => {
    const files = [...readdirSync('.'), ...readdirSync('docs').map((name) => `docs/${name}`)]
    const broken = files
      .filter((file) => file.endsWith('.md'))
      .flatMap((file) =>
        [...withoutCode(read(file)).matchAll(/\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)/g)]
          .filter(([, path, anchor]) => {
            const target = path ? posix.join(posix.dirname(file), path) : file
            if (!existsSync(target)) return true
            return anchor !== undefined && !headings(target).some((heading) => heading.anchor === anchor)
          })
          .map(([link]) => `${file}: ${link}`),
      )
    assert.deepEqual(broken, [])
  })

  it('lists every source file in CONTRIBUTING.md', () => {
    const contributing = read('CONTRIBUTING.md')
    const files = ['native', 'src'].flatMap((directory) =>
      readdirSync(directory, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ name }) => name),
    )
    const missing = files.filter((file) => {
      const source = file.replace(/\.h$/, '.cc')
      return !contributing.includes(`  ${files.includes(source) ? source : file} `)
    })
    assert.deepEqual(missing, [])
  })
})
