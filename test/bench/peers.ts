/**
 * The peers of the dispatch benchmarks, as their own documents wire them: a chain of `depth` middlewares around a handler.
 */
import { Delivery, type Origin, type Reader } from "@millrace/core"
import { Controller, Module, UseInterceptors } from "@nestjs/common"
import { NestFactory } from "@nestjs/core"
import { MessagePattern, Payload, Server } from "@nestjs/microservices"
// @ts-expect-error it ships no types
import compose from "koa-compose"
import { type Middleware, ServiceBroker } from "moleculer"
// oxlint-disable-next-line import/no-unassigned-import -- NestJS reads what it defines
import "reflect-metadata"
import { defer, isObservable, lastValueFrom, map, type Observable, of } from "rxjs"

/** What every peer dispatches. */
export interface Work {
  hops: number
  readonly value: number
}

export const ring: ReadonlyArray<Work> = Array.from({ length: 1024 }, (_, value) => ({ hops: 0, value }))

let sum = 0
export const handle = (work: Work): number => sum += work.value

const times = <A>(depth: number, make: (i: number) => A): Array<A> => Array.from({ length: depth }, (_, i) => make(i))

type Run = (count: number) => void | Promise<void>

/** The bound: plain functions in a loop. */
export const plain = (depth: number): Run => {
  const chain = times(depth, () => (next: (work: Work) => number) => (work: Work) => {
    work.hops++
    return next(work)
  }).reduce((next, middleware) => middleware(next), handle)
  return (count) => {
    for (let i = 0; i < count; i++) chain(ring[i & 1023]!)
  }
}

export const koa = (depth: number): Run => {
  const chain = compose(times(depth, () => async (work: Work, next: () => Promise<unknown>) => {
    work.hops++
    await next()
  }))
  const last = async (work: Work) => handle(work)
  return async (count) => {
    for (let i = 0; i < count; i++) await chain(ring[i & 1023]!, last)
  }
}

export const rxjs = (depth: number): Run => {
  type Chain = (work: Work) => Observable<number>
  const chain = times(depth, () => (next: Chain): Chain => (work) => {
    work.hops++
    return next(work).pipe(map((value) => value))
  }).reduce<Chain>((next, interceptor) => interceptor(next), (work) => defer(() => of(handle(work))))
  return async (count) => {
    for (let i = 0; i < count; i++) await lastValueFrom(chain(ring[i & 1023]!))
  }
}

export const moleculer = async (depth: number): Promise<Run> => {
  const broker = new ServiceBroker({
    logger: false,
    metrics: false,
    tracing: false,
    middlewares: times(depth, (i): Middleware => ({
      name: `m${i}`,
      localAction: (next) =>
        async function(context) {
          context.params["hops"]++
          return await next.call(this, context)
        }
    }))
  })
  broker.createService({ name: "s", actions: { a: (context: { params: Work }) => handle(context.params) } })
  await broker.start()
  return async (count) => {
    for (let i = 0; i < count; i++) await broker.call("s.a", ring[i & 1023]!)
  }
}

/** A real microservice over a transport in memory; decorators are applied by hand, since types here are erased. */
export const nest = async (depth: number): Promise<Run> => {
  class Orders {
    handle(work: Work): number {
      return handle(work)
    }
  }
  const own = Object.getOwnPropertyDescriptor(Orders.prototype, "handle")!
  MessagePattern("orders")(Orders.prototype, "handle", own)
  Payload()(Orders.prototype, "handle", 0)
  const interceptors = times(depth, () => ({
    intercept: (
      context: { switchToRpc: () => { getData: () => Work } },
      next: { handle: () => Observable<unknown> }
    ) => {
      context.switchToRpc().getData().hops++
      return next.handle().pipe(map((value) => value))
    }
  }))
  if (depth > 0) UseInterceptors(...interceptors as never[])(Orders.prototype, "handle", own)
  Controller()(Orders)
  // oxlint-disable-next-line typescript/no-extraneous-class -- what NestJS calls a module
  class App {}
  Module({ controllers: [Orders] })(App)
  let found: ((work: Work, context: object) => Promise<unknown>) | undefined
  class InMemory extends Server {
    listen(done: () => void): void {
      found = this.messageHandlers.get("orders") as typeof found
      done()
    }
    close(): void {}
    on(): void {}
    unwrap<T>(): T {
      return undefined as T
    }
  }
  const app = await NestFactory.createMicroservice(App, { strategy: new InMemory(), logger: false })
  await app.listen()
  return async (count) => {
    for (let i = 0; i < count; i++) {
      const answer = await found!(ring[i & 1023]!, {})
      if (isObservable(answer)) await lastValueFrom(answer)
    }
  }
}

const origin: Origin = {
  system: "bench",
  channel: "orders",
  group: "bench",
  partition: 0,
  handler: "bench",
  holdLimit: Number.POSITIVE_INFINITY
}

const reader: Reader<undefined> = {
  key: () => "key",
  keyBytes: () => undefined,
  headers: () => ({}),
  fields: () => [],
  timestamp: () => undefined
}

/** Deliveries for our own chains. */
export const deliveries: ReadonlyArray<Delivery> = Array.from(
  { length: 1024 },
  (_, i) => new Delivery(origin, reader as Reader<never>, undefined as never, i, new Uint8Array(8), 1, false)
)
