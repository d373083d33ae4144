import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { asModule, asRequired, fromRegistry, type Output, output, packed, project, run } from './packed.js'

interface Manager {
  /** Installs the tarball in `directory`. */
  install(directory: string): Output
  /** Runs a program of the project. */
  node?(directory: string, file: string): string
  files?: Record<string, string>
}

const scriptOf = (name: string, version: string, script: string) => join(fromRegistry(name, version), script)
const node = (directory: string, ...args: string[]) => run(directory, process.execPath, args)
// Not the settings of the user, which npm may complain about.
const quiet = ['--no-audit', '--no-fund', '--userconfig=/dev/null']

const yarn = (linker: string): Manager => {
  const program = () => scriptOf('@yarnpkg/cli-dist', 'latest', 'bin/yarn.js')
  return {
    // Yarn takes a directory for a project of its own when it has a lock file.
    files: {
      'yarn.lock': '',
      '.yarnrc.yml': `nodeLinker: ${linker}\nenableTelemetry: false\nenableGlobalCache: false\n`,
    },
    install: (directory) => node(directory, program(), 'add', `async-accept@file:${packed()}`),
    node: (directory, file) => output(directory, process.execPath, program(), 'node', file),
  }
}

const managers: Record<string, Manager> = {
  'npm 9, the oldest that the supported versions of Node.js have had': {
    install: (directory) => node(directory, scriptOf('npm', '9', 'bin/npm-cli.js'), 'install', ...quiet, packed()),
  },
  'the newest npm': {
    // It needs a newer Node.js than the oldest that is supported.
    install: (directory) =>
      run(directory, join(fromRegistry(`node-linux-${process.arch}`, '26'), 'bin/node'), [
        scriptOf('npm', 'latest', 'bin/npm-cli.js'),
        'install',
        ...quiet,
        packed(),
      ]),
  },
  pnpm: {
    install: (directory) => node(directory, scriptOf('pnpm', 'latest', 'bin/pnpm.mjs'), 'add', packed()),
  },
  'Yarn with node_modules': yarn('node-modules'),
  'Yarn with Plug’n’Play': yarn('pnp'),
  Bun: {
    install: (directory) => {
      const name = `@oven/bun-linux-${process.arch === 'arm64' ? 'aarch64' : 'x64-baseline'}`
      return run(directory, join(fromRegistry(name), 'bin/bun'), ['add', packed()])
    },
  },
}

describe('The package, with no script at install time', function () {
  this.timeout(300_000)

  before(() => {
    packed()
  })

  for (const [name, manager] of Object.entries(managers)) {
    it(`installs with ${name}, without a complaint, and runs as a module and through require`, () => {
      const runIn = manager.node ?? ((each, file) => output(each, process.execPath, file))
      const directory = project({
        'package.json': '{ "name": "user" }',
        'module.mjs': asModule,
        'required.cjs': asRequired,
        ...manager.files,
      })
      const { status, stdout, stderr } = manager.install(directory)
      assert.equal(status, 0, stdout + stderr)
      // Yarn says of its own loader, for any package, that it is experimental. npm 12 lists the `prepare` of a package that
      // is not from a registry; it runs that for git dependencies.
      const ofEveryPackage = /.*experimental loader API.*|Done with warnings|npm warn install-scripts.*/g
      const listed = [...stderr.matchAll(/install-scripts +async-accept@\S+ \((.*)\)/g)].map(
        ([, scripts]) => scripts ?? '',
      )
      assert.ok(
        listed.every((scripts) => /^prepare: [^,]*$/.test(scripts)),
        stderr,
      )
      const said = `${stdout}${stderr}`.replace(ofEveryPackage, '')
      assert.doesNotMatch(said, /warn|err(or)?\b|deprecated|ignored|approve|not supported/i)
      for (const file of ['module.mjs', 'required.cjs']) assert.equal(runIn(directory, file), 'answered\n')
      // Nothing comes along.
      const modules = join(directory, 'node_modules')
      const names = existsSync(modules)
        ? readdirSync(modules).filter((each) => !each.startsWith('.'))
        : ['async-accept']
      assert.deepEqual(names, ['async-accept'])
    })
  }
})
