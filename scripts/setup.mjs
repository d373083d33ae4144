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
  inputs: ['package-lock.json', 'tsconfig.json', 'src'],
  make: () => {
    rmSync(join(root, 'dist'), { recursive: true, force: true })
    runNode('node_modules/typescript/bin/tsc', '--project', 'tsconfig.json')
  },
})
