// What was unreleased becomes the version that `npm version` is making.
import { readFileSync, writeFileSync } from 'node:fs'

const unreleased = '## Unreleased\n'
const changelog = readFileSync('CHANGELOG.md', 'utf8')
if (!changelog.includes(unreleased)) throw new Error('CHANGELOG.md has nothing unreleased')
const date = new Date().toISOString().slice(0, 10)
writeFileSync('CHANGELOG.md', changelog.replace(unreleased, `## ${process.env.npm_package_version} (${date})\n`))
