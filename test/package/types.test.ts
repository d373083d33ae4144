import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { fromRegistry, install, output, project, run } from './packed.js'

const versions: Record<string, () => string> = {
  '5.2, the oldest that is supported': () => join(fromRegistry('typescript', '5.2'), 'bin/tsc'),
  'the newest': () => join(fromRegistry('typescript'), 'bin/tsc'),
}

const modes: Record<string, object> = {
  node16: { module: 'node16', moduleResolution: 'node16' },
  nodenext: { module: 'nodenext', moduleResolution: 'nodenext' },
  bundler: { module: 'esnext', moduleResolution: 'bundler' },
}

const uses = `import net from 'node:net'
import { Connection, type CodedError, FdChannel, Listener, ReceivedFd, serve, Serving } from 'async-accept'

const listener = await Listener.listen({ port: 0 })
const port: number = listener.port
net.connect(listener.port)
listener.on('accept', ({ ref, connection, error }) => {
  const tag: number = ref
  if (error) console.log(error.code.length)
  else connection.close()
})
const serving: Serving = serve(listener, net.createServer(), { maxConnections: 10 })
serve(listener, () => {}, { proxyProtocol: 'require', trust: ['10.0.0.0/8'] })
serve(listener, (connection) => connection.close())
await using disposed = await Listener.listen()
await Listener.listen(3000)
for await (const connection of listener.connections({ timeout: 1000, limit: 10 })) connection.close()

// @ts-expect-error A path is an option.
await Listener.listen('/run/app.sock')

// @ts-expect-error The PROXY protocol needs trusted proxies.
serve(listener, () => {}, { proxyProtocol: 'require' })
// @ts-expect-error
new Listener()
// @ts-expect-error
new Connection()
// @ts-expect-error
new FdChannel()
// @ts-expect-error
new ReceivedFd()
`

/** The programs of README.md, each as a module. */
const readmePrograms = () =>
  Object.fromEntries(
    [...readFileSync('README.md', 'utf8').matchAll(/```js\n(.*?)```/gs)].map(([, code], i) => [
      `readme${i}.ts`,
      code ?? '',
    ]),
  )

describe('The types of the package', function () {
  this.timeout(300_000)

  let directory: string

  /** Checks the files of the project with every declaration file of the package and of Node. */
  function check(tsc: string, mode: object, ...flags: string[]): { status: number | null; stdout: string } {
    const compilerOptions = { ...mode, strict: true, skipLibCheck: false, target: 'es2022', noEmit: true }
    const configuration = {
      compilerOptions: { ...compilerOptions, lib: ['es2023', 'esnext.disposable'], types: ['node'] },
    }
    const path = join(directory, 'tsconfig.json')
    output(
      directory,
      process.execPath,
      '-e',
      `fs.writeFileSync('${path}', ${JSON.stringify(JSON.stringify(configuration))})`,
    )
    return run(directory, process.execPath, [tsc, ...flags, '-p', path])
  }

  beforeEach(() => {
    directory = project({
      'package.json': '{ "name": "user", "type": "module" }',
      'uses.ts': uses,
      ...readmePrograms(),
    })
    install(directory)
    output(
      directory,
      'npm',
      'install',
      '--no-audit',
      '--no-fund',
      '--ignore-scripts',
      '--prefer-offline',
      '@types/node@20',
    )
  })

  for (const [version, tscOf] of Object.entries(versions)) {
    for (const [mode, options] of Object.entries(modes)) {
      it(`check the uses of a program, and the README, with TypeScript ${version}, and ${mode}`, () => {
        const { status, stdout } = check(tscOf(), options)
        assert.equal(stdout, '')
        assert.equal(status, 0)
      })
    }
  }

  it('declare nothing that is internal', () => {
    const { stdout } = check((versions['the newest'] as () => string)(), modes.nodenext as object, '--listFilesOnly')
    const root = join(directory, 'node_modules/async-accept/dist')
    const files = stdout.split('\n').filter((file) => file.startsWith(root))
    const text = (file: string) => readFileSync(file, 'utf8')
    const index = text(join(root, 'index.d.ts'))
    // The parts of public types, whose fields an editor shows.
    const parts = ['AcceptingOptions', 'InheritedOptions', 'OpenOptions', 'SocketOptions']
    const declared = files
      .filter((file) => basename(file) !== 'index.d.ts')
      .flatMap((file) =>
        [...text(file).matchAll(/^export (?:declare )?(?:const|function|class|interface|type) (\w+)/gm)].map(
          ([, name]) => [relative(root, file), name as string] as const,
        ),
      )
    assert.ok(declared.length > 40)
    const internal = declared.filter(([, name]) => !new RegExp(`\\b${name}\\b`).test(index) && !parts.includes(name))
    assert.deepEqual(internal, [])
  })
})
