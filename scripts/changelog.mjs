// Renames the "Unreleased" section of CHANGELOG.md to the version that `npm version` is creating.
import { readFileSync, writeFileSync } from 'node:fs'

const unreleased = '## Unreleased\n'
const changelog = readFileSync('CHANGELOG.md', 'utf8')
if (!changelog.includes(unreleased)) throw new Error('CHANGELOG.md has no "Unreleased" section')
const date = new Date().toISOString().slice(0, 10)
writeFileSync('CHANGELOG.md', changelog.replace(unreleased, `## ${process.env.npm_package_version} (${date})\n`))
