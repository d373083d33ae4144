import assert from 'node:assert/strict'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { nodeResolve } from '@rollup/plugin-node-resolve'
import { nodeFileTrace } from '@vercel/nft'
import * as esbuild from 'esbuild'
import { rollup } from 'rollup'
import webpack from 'webpack'
import { temporaryDirectory } from '../helpers.js'
import { asModule, asRequired, install, output, run } from './packed.js'

const binary = `prebuilds/linux-${process.arch}/async-accept.glibc.node`
const binaries = ['x64', 'arm64'].flatMap((arch) =>
  ['glibc', 'musl'].map((libc) => `prebuilds/linux-${arch}/async-accept.${libc}.node`),
)

/** Bundles `entry` of a project into `directory`. Resolves to the file to run. */
type Bundle = (projectDirectory: string, entry: string, directory: string) => Promise<string>

const esbuildTo = (format: 'esm' | 'cjs'): Bundle => {
  return async (projectDirectory, entry, directory) => {
    const outfile = join(directory, format === 'esm' ? 'server.mjs' : 'server.cjs')
    const { warnings } = await esbuild.build({
      absWorkingDir: projectDirectory,
      entryPoints: [entry],
      bundle: true,
      platform: 'node',
      format,
      outfile,
      // Of import.meta, which is empty in the format of CommonJS.
      logOverride: { 'empty-import-meta': 'silent' },
      logLevel: 'silent',
    })
    assert.deepEqual(warnings, [])
    return outfile
  }
}

const webpackTo = (filename: string, configuration: webpack.Configuration): Bundle => {
  return async (context, entry, path) => {
    const compiler = webpack({
      mode: 'production',
      target: 'node20',
      context,
      entry: `./${entry}`,
      ...configuration,
      output: { ...configuration.output, path, filename },
    })
    const stats = await new Promise<webpack.Stats | undefined>((resolve, reject) => {
      compiler?.run((error, result) => (error ? reject(error) : resolve(result)))
    })
    assert.equal(stats?.toString({ all: false, errors: true, warnings: true }), '')
    return join(path, filename)
  }
}

const rollupTo: Bundle = async (projectDirectory, entry, directory) => {
  const warnings: string[] = []
  const bundle = await rollup({
    input: join(projectDirectory, entry),
    external: /^node:/,
    plugins: [nodeResolve()],
    onwarn: ({ message }) => warnings.push(message),
  })
  await bundle.write({ dir: directory, format: 'es', entryFileNames: 'server.mjs' })
  assert.deepEqual(warnings, [])
  return join(directory, 'server.mjs')
}

const nccTo: Bundle = async (projectDirectory, entry, directory) => {
  const program = createRequire(import.meta.url).resolve('@vercel/ncc/dist/ncc/cli.js')
  output(projectDirectory, process.execPath, program, 'build', entry, '--out', directory)
  const [file] = ['index.mjs', 'index.js'].map((name) => join(directory, name)).filter(existsSync)
  return file as string
}

describe('A bundle with the package', function () {
  this.timeout(120_000)
  let directory: string

  before(() => {
    // For all tests, and so not by temporaryDirectory().
    directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
    writeFileSync(join(directory, 'package.json'), '{ "name": "user" }')
    writeFileSync(join(directory, 'module.mjs'), asModule)
    writeFileSync(join(directory, 'required.cjs'), asRequired)
    // esbuild has no top-level await in the format of CommonJS.
    const [imports, body] = asModule.split("'async-accept'\n")
    writeFileSync(
      join(directory, 'function.mjs'),
      `${imports}'async-accept'\nasync function main() {${body}}\nvoid main()\n`,
    )
    install(directory)
    // The published package has all of these. The tarball here has those that this machine has made.
    for (const file of binaries) {
      const path = join(directory, 'node_modules/async-accept', file)
      mkdirSync(dirname(path), { recursive: true })
      if (!existsSync(path)) writeFileSync(path, `in place of ${file}`)
    }
  })

  after(() => rmSync(directory, { recursive: true }))

  /** Runs a bundle where neither the project nor its node_modules can be found. */
  const answers = (file: string) => assert.equal(output(dirname(file), process.execPath, file), 'answered\n')

  const complete: Record<string, [Bundle, entry: string]> = {
    'webpack, as a module': [
      webpackTo('server.mjs', { experiments: { outputModule: true }, output: { module: true, chunkFormat: 'module' } }),
      'module.mjs',
    ],
    'webpack, in the format of CommonJS': [webpackTo('server.cjs', {}), 'function.mjs'],
    'webpack, from require()': [webpackTo('server.cjs', {}), 'required.cjs'],
    ncc: [nccTo, 'module.mjs'],
  }
  for (const [name, [bundle, entry]] of Object.entries(complete)) {
    it(`runs with the binary that the bundler has put beside it: ${name}`, async () => {
      answers(await bundle(directory, entry, temporaryDirectory()))
    })
  }

  const withoutBinary: Record<string, [Bundle, entry: string]> = {
    'esbuild, as a module': [esbuildTo('esm'), 'module.mjs'],
    'esbuild, in the format of CommonJS': [esbuildTo('cjs'), 'function.mjs'],
    'esbuild, from require()': [esbuildTo('cjs'), 'required.cjs'],
    rollup: [rollupTo, 'module.mjs'],
  }
  for (const [name, [bundle, entry]] of Object.entries(withoutBinary)) {
    it(`says which file it needs beside it, and runs with that: ${name}`, async () => {
      const file = await bundle(directory, entry, temporaryDirectory())
      const { status, stderr } = run(dirname(file), process.execPath, [file])
      assert.equal(status, 1)
      assert.ok(stderr.includes(`or put ${binary} of the package next to it`), stderr)
      copyFileSync(join(directory, 'node_modules/async-accept', binary), join(dirname(file), basename(binary)))
      answers(file)
    })
  }

  it('runs with the files that @vercel/nft has traced', async () => {
    const { fileList, warnings } = await nodeFileTrace([join(directory, 'module.mjs')], { base: directory })
    assert.deepEqual([...warnings].map(String), [])
    const traced = temporaryDirectory()
    for (const file of fileList) cpSync(join(directory, file), join(traced, file))
    answers(join(traced, 'module.mjs'))
  })

  it('keeps the package out when it is external', async () => {
    const outfile = join(directory, 'external/server.mjs')
    await esbuild.build({
      absWorkingDir: directory,
      entryPoints: ['module.mjs'],
      bundle: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      outfile,
      logLevel: 'silent',
    })
    answers(outfile)
  })
})
