/**
 * NestJS microservices as a reader of a real broker, wired as its documents say: eight interceptors around the handler of an event.
 * It reads neither Redis Streams nor JetStream, only Pub/Sub and subjects, which keep nothing for who comes later; so it has no
 * variant there.
 */
import { Controller, type INestMicroservice, Module, UseInterceptors } from "@nestjs/common"
import { NestFactory } from "@nestjs/core"
import { Ctx, EventPattern, type MicroserviceOptions, Payload } from "@nestjs/microservices"
// oxlint-disable-next-line import/no-unassigned-import -- NestJS reads what it defines
import "reflect-metadata"
import { map, type Observable } from "rxjs"

let hops = 0
const interceptor = () => ({
  intercept: (_context: object, next: { handle: () => Observable<unknown> }) => {
    hops++
    return next.handle().pipe(map((value) => value))
  }
})

/** A microservice that listens; decorators are applied by hand, since types here are erased. */
export const listen = async <Data, Context>(
  server: MicroserviceOptions,
  pattern: string,
  handle: (data: Data, context: Context) => void
): Promise<INestMicroservice> => {
  class Events {
    handle(data: Data, context: Context): void {
      handle(data, context)
    }
  }
  const own = Object.getOwnPropertyDescriptor(Events.prototype, "handle")!
  EventPattern(pattern)(Events.prototype, "handle", own)
  Payload()(Events.prototype, "handle", 0)
  Ctx()(Events.prototype, "handle", 1)
  UseInterceptors(...Array.from({ length: 8 }, interceptor))(Events.prototype, "handle", own)
  Controller()(Events)
  // oxlint-disable-next-line typescript/no-extraneous-class -- what NestJS calls a module
  class App {}
  Module({ controllers: [Events] })(App)
  const app = await NestFactory.createMicroservice<MicroserviceOptions>(App, { ...server, logger: false })
  await app.listen()
  return app
}
