/**
 * The workflow for Temporal, whose worker runs it in a sandbox: this file imports nothing else.
 */
import { proxyActivities } from "@temporalio/workflow"

interface Order {
  readonly id: string
  readonly customer: string
  readonly amount: number
}

interface Activities {
  readonly charge: (order: Order) => Promise<string>
  readonly ship: (receipt: string) => Promise<string>
}

const { charge, ship } = proxyActivities<Activities>({ startToCloseTimeout: "30s" })

export const FulfilOrder = async (order: Order): Promise<string> => ship(await charge(order))
