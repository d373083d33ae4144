// Versions of Node, as packages of the registry have them.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { npm, root } from './steps.mjs'

/** The program of the newest Node of a major version, for this machine or another one. */
export function nodeOf(major, arch = process.arch) {
  const name = `node-${process.platform}-${arch}`
  return join(packageOf(name, major, `node_modules/.cache/nodes/${major}-${arch}`), 'bin/node')
}

/** The directory of a package, which is installed below `directory` if it is not there yet. */
export function packageOf(name, version, directory) {
  const prefix = join(root, directory)
  const installed = join(prefix, 'node_modules', name)
  // Without --force npm refuses a package that is for another machine.
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error', '--force']
  if (!existsSync(installed)) npm('install', '--prefix', prefix, ...flags, `${name}@${version}`)
  return installed
}
