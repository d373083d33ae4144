// Makes a clone ready to run: dependencies, addon, compiled TypeScript; each when, and only when, what it is made from
// has changed. Needs nothing but Node and a C++ toolchain. Whatever needs that begins with it.
// --package: only what the package contains. npm, which runs this as `prepare`, has installed the dependencies.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { nodeGyp, npm, root, runNode, step } from './steps.mjs'

if (!process.argv.includes('--package')) {
  step({
    what: 'dependencies',
    output: 'node_modules',
    inputs: ['package-lock.json'],
    // Nothing that we depend on needs its install script, and ours would only build what comes next.
    make: () => npm('ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'),
  })

  step({
    what: 'addon',
    output: 'build',
    inputs: ['package-lock.json', 'binding.gyp', 'native'],
    make: () => nodeGyp(root),
  })
}

step({
  what: 'TypeScript',
  output: 'dist',
  inputs: ['package-lock.json', 'tsconfig.json', 'scripts/setup.mjs', 'src'],
  make: () => {
    const compile = (...options) => runNode('node_modules/typescript/bin/tsc', '--project', 'tsconfig.json', ...options)
    const modules = join(root, 'dist/modules')
    rmSync(join(root, 'dist'), { recursive: true, force: true })
    compile('--emitDeclarationOnly')
    compile('--declaration', 'false', '--removeComments', '--outDir', modules)
    bundle('dist/modules')
    rmSync(modules, { recursive: true })
  },
})

// Node takes about half a millisecond of CPU for each file that it imports, and a program waits for all of them. So the
// modules become the entry points and what they share. The shared files stand in dist/core, from where the paths to the
// addon are right. load-addon stays apart, because ncc 0.45 cannot parse the rest, and would spoil the binary. The
// command shares nothing: no program imports it. rollup keeps the names of classes and adds no code, unlike esbuild.
function bundle(modules) {
  const rollup = (...names) => {
    const inputs = names.map((name) => `--input=${name}=${modules}/${name}.js`)
    const outputs = ['--format=es', '--dir=dist', '--chunkFileNames=core/shared.js']
    runNode('node_modules/rollup/dist/bin/rollup', ...inputs, ...outputs, '--external=/^node:/', '--silent')
  }
  rollup('index', 'inherit/inherit', 'inherit/start', 'run/worker-preload', 'core/load-addon')
  rollup('run/main')
}
