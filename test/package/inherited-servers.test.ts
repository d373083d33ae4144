import assert from 'node:assert/strict'
import { join } from 'node:path'
import { assertAnswersTheSame, overHttp } from '../inherit/unchanged-server.js'
import { leaveNoFds } from '../leaks.js'
import { directoryWith, project, run } from './packed.js'

const nest = (platform: string) => `
  import 'reflect-metadata'
  import { Body, Controller, Get, Module, Param, Post, Query } from '@nestjs/common'
  import { NestFactory } from '@nestjs/core'
  import { ${platform} as Platform } from '@nestjs/platform-${platform === 'ExpressAdapter' ? 'express' : 'fastify'}'

  class Hello {
    hello(name, query) { return [name, query] }
    echo(body) { return body }
  }
  const decorate = (name, decorator) => decorator(Hello.prototype, name, Object.getOwnPropertyDescriptor(Hello.prototype, name))
  Controller()(Hello)
  decorate('hello', Get('hello/:name'))
  Param('name')(Hello.prototype, 'hello', 0)
  Query()(Hello.prototype, 'hello', 1)
  decorate('echo', Post('echo'))
  Body()(Hello.prototype, 'echo', 0)
  class Application {}
  Module({ controllers: [Hello] })(Application)

  const application = await NestFactory.create(Application, new Platform(), { logger: false })
  await application.listen(process.env.PORT)
`

const nestFiles = { 'express.mjs': nest('ExpressAdapter'), 'fastify.mjs': nest('FastifyAdapter') }

const nextFiles = {
  'package.json': '{ "private": true }',
  'next.config.mjs': "export default { output: 'standalone', outputFileTracingRoot: import.meta.dirname }",
  'app/layout.jsx': 'export default ({ children }) => <html><body>{children}</body></html>',
  'app/page.jsx': 'export default () => <p>page</p>',
  'app/hello/[name]/route.js': `
    export const GET = async ({ url, headers }, { params }) =>
      Response.json([await params, new URL(url).search, headers.get('x-forwarded-for')])`,
  'app/echo/route.js': 'export const POST = async (request) => Response.json(await request.json())',
}

const nitroFiles = {
  'package.json': '{ "private": true, "type": "module" }',
  'nitro.config.mjs': "export default { serverDir: './', preset: 'node-server' }",
  'routes/hello/[name].js': `
    import { defineHandler } from 'nitro/h3'
    export default defineHandler(({ context, url }) => [context.params, url.search])`,
  'routes/echo.post.js': `
    import { defineHandler } from 'nitro/h3'
    export default defineHandler(({ req }) => req.json())`,
}

/** Builds an application with a program of its framework. Returns the path of the server that it makes. */
function built(packages: string[], files: Record<string, string>, program: string, server: string): string {
  const directory = project(files, directoryWith(...packages))
  const command = [join(directory, 'node_modules', program), 'build']
  const { status, stdout, stderr } = run(directory, process.execPath, command, { NEXT_TELEMETRY_DISABLED: '1' })
  assert.equal(status, 0, stdout + stderr)
  return join(directory, server)
}

describe('The unchanged server of a larger framework answers with the preload as without it', function () {
  // Installs and builds the applications.
  this.timeout(300_000)
  leaveNoFds()

  for (const file of Object.keys(nestFiles)) {
    it(`Nest, ${file}`, async function () {
      const platforms = ['core', 'common', 'platform-express', 'platform-fastify'].map((each) => `@nestjs/${each}@12`)
      const directory = project(nestFiles, directoryWith(...platforms, 'rxjs@7', 'reflect-metadata@0.2'))
      await assertAnswersTheSame(this, overHttp(join(directory, file)))
    })
  }

  it("Next's standalone server", async function () {
    const next = ['next@16', 'react@19', 'react-dom@19']
    const server = built(next, nextFiles, 'next/dist/bin/next', '.next/standalone/server.js')
    await assertAnswersTheSame(this, overHttp(server))
  })

  it('the server that Nitro builds', async function () {
    const server = built(['nitro@3'], nitroFiles, 'nitro/dist/cli/index.mjs', '.output/server/index.mjs')
    await assertAnswersTheSame(this, overHttp(server))
  })
})
