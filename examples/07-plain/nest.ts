/**
 * Millrace in a program of NestJS: a provider starts the consumer with the application and drains it at its end.
 */
// oxlint-disable-next-line import/no-unassigned-import -- NestJS reads what it defines
import "reflect-metadata"
import { Body, Controller, HttpCode, Inject, Injectable, Module, Post } from "@nestjs/common"
import { NestFactory } from "@nestjs/core"
import { type Billing, type Order, start } from "./orders.ts"

const charged = Promise.withResolvers<void>()

class OrdersService {
  private billing: Billing | undefined

  async onModuleInit(): Promise<void> {
    this.billing = await start((line) => {
      console.log(line)
      charged.resolve()
    })
  }
  async onApplicationShutdown(): Promise<void> {
    await this.billing?.close()
  }
  async place(order: Order): Promise<void> {
    await this.billing?.publish(order)
  }
}

class OrdersController {
  private readonly orders: OrdersService
  constructor(orders: OrdersService) {
    this.orders = orders
  }
  async place(order: Order): Promise<{ readonly accepted: string }> {
    await this.orders.place(order)
    return { accepted: order.id }
  }
}

// oxlint-disable-next-line typescript/no-extraneous-class -- NestJS reads what a module is from its class
class AppModule {}

// decorators as the functions that they are: Node runs this file as it stands, and strips types only
const place = Object.getOwnPropertyDescriptor(OrdersController.prototype, "place")!
Injectable()(OrdersService)
Inject(OrdersService)(OrdersController, undefined, 0)
Body()(OrdersController.prototype, "place", 0)
HttpCode(202)(OrdersController.prototype, "place", place)
Post()(OrdersController.prototype, "place", place)
Controller("orders")(OrdersController)
Module({ controllers: [OrdersController], providers: [OrdersService] })(AppModule)

const app = await NestFactory.create(AppModule, { logger: false })
await app.listen(0, "127.0.0.1")

const answer = await fetch(`${await app.getUrl()}/orders`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ id: "o-1", amount: 3 })
})
console.log(answer.status, await answer.text())
await charged.promise
await app.close()
// => 202 {"accepted":"o-1"}
// => charged 3 for o-1
