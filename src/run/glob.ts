const wildcards: Record<string, string> = { '**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]' }

/**
 * Returns the regular expression of a glob, for paths relative to the current directory: `*` and `?` stand for
 * characters of a name, `**` for any folders, `{a,b}` for alternatives. Throws `SyntaxError`. `path.matchesGlob()` prints
 * an ExperimentalWarning on Node 20 and 22.
 */
export function globPattern(glob: string): RegExp {
  let depth = 0
  const source = glob.replace(/^\.\//, '').replaceAll(/\*\*\/|\*\*|[*?{},.+^$()|[\]\\]/g, (token) => {
    if (token === '{') depth++
    if (token === '}') depth--
    return wildcards[token] ?? { '{': '(?:', '}': ')', ',': depth > 0 ? '|' : ',' }[token] ?? `\\${token}`
  })
  return new RegExp(`^${source}$`, 's')
}
