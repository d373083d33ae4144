// Installs versions of Node, and other programs that scripts need, from npm packages.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { npm, root } from './steps.mjs'

/** Returns the path of the newest Node of a major version, for this or another architecture. */
export function nodeOf(major, arch = process.arch) {
  const name = `node-${process.platform}-${arch}`
  return join(packageOf(name, major, `node_modules/.cache/nodes/${major}-${arch}`), 'bin/node')
}

/** Returns the directory of a package. Installs it below `directory` when it is missing. */
export function packageOf(name, version, directory) {
  const prefix = join(root, directory)
  const installed = join(prefix, 'node_modules', name)
  // npm rejects packages for other architectures and C libraries without --force.
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error', '--force']
  if (!existsSync(installed)) npm('install', '--prefix', prefix, ...flags, `${name}@${version}`)
  return installed
}
