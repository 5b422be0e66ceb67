import { getRequestListener } from "@hono/node-server"
import fastify from "fastify"
import { Hono } from "hono"
import { createMiddleware } from "hono/factory"
import type { RequestListener } from "node:http"
import { Bucket, correlation, order, seen } from "./work.ts"

/** The five as Fastify has them: hooks, its own log switched off, its own handler of errors. */
export const onFastify = async () => {
  const bucket = new Bucket()
  const app = fastify({ logger: false })
  app.addHook("onRequest", async (request, reply) => {
    reply.header(correlation, request.headers[correlation] ?? "none")
  })
  app.addHook("onResponse", async (request, reply) => request.log.debug({ status: reply.statusCode }))
  app.addHook("onRequest", async (_request, reply) => bucket.take() ? undefined : reply.code(429).send())
  app.addHook("preHandler", async (request, reply) => {
    const key = request.headers["idempotency-key"]
    return typeof key === "string" && seen.has(key) ? reply.code(409).send() : undefined
  })
  app.setErrorHandler((_error, _request, reply) => reply.code(500).send())
  app.get<{ Params: { id: string } }>("/orders/:id", (request, reply) => {
    reply.send({ ...order, id: request.params.id })
  })
  await app.ready()
  return app
}

/** The five as middlewares of Hono, on its own adapter for Node. */
export const onHono = (): RequestListener => {
  const bucket = new Bucket()
  const logs = process.env["MILLRACE_NEVER"] !== undefined
  const app = new Hono()
  app.onError((_error, context) => context.body(null, 500))
  app.use(createMiddleware(async (context, next) => {
    context.header(correlation, context.req.header(correlation) ?? "none")
    await next()
  }))
  app.use(createMiddleware(async (context, next) => {
    await next()
    if (logs) console.log(context.req.method, context.req.path, context.res.status)
  }))
  app.use(createMiddleware(async (context, next) => bucket.take() ? next() : context.body(null, 429)))
  app.use(createMiddleware(async (context, next) => {
    const key = context.req.header("idempotency-key")
    return key !== undefined && seen.has(key) ? context.body(null, 409) : next()
  }))
  app.get("/orders/:id", (context) => context.json({ ...order, id: context.req.param("id") }))
  const listener = getRequestListener(app.fetch)
  return (request, response) => void listener(request, response)
}
