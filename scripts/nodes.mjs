// Installs versions of Node from npm packages.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { npm, root } from './steps.mjs'

/** Returns the path of the newest Node of a major version, for this or another architecture. */
export function nodeOf(major, arch = process.arch) {
  const name = `node-${process.platform}-${arch}`
  const prefix = join(root, 'node_modules/.cache/nodes', `${major}-${arch}`)
  const program = join(prefix, 'node_modules', name, 'bin/node')
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error']
  // npm rejects packages for other architectures without --force.
  if (arch !== process.arch) flags.push('--force')
  if (!existsSync(program)) npm('install', '--prefix', prefix, ...flags, `${name}@${major}`)
  return program
}
