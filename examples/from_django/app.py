"""A web application in Django that drives the shop's task: place an order, look at it, answer its question.

One file, so that all of it can be seen. Views that don't await use the blocking twins: `order.sync` and `Client`.
"""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views import View
from tasks import order

from torpor import Client

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="an example needs none")
client = Client()  # of the process: its connections are kept, and its threads may share it


class Order(View):
    def post(self, request: HttpRequest, number: int) -> JsonResponse:
        """The same number again is the same order: the key sees to that, however often a browser sends it."""
        item, count = str(request.GET["item"]), int(str(request.GET.get("count", 1)))
        tagged = order.options(tags=[f"order-{number}"], idempotency_key=f"order-{number}")
        return JsonResponse({"run": tagged.sync.trigger(number, item, count).id}, status=202)

    def get(self, request: HttpRequest, number: int) -> JsonResponse:
        for run in client.runs(tag=f"order-{number}"):
            whole = client.run(run["id"])
            return JsonResponse({"status": whole["status"], "receipt": whole.get("output")})
        return JsonResponse({"detail": "there is no such order"}, status=404)


class Answer(View):
    def post(self, request: HttpRequest, number: int) -> JsonResponse:
        for question in client.tokens(status="WAITING", tags=[f"order-{number}"]):
            client.approve(question["id"], request.GET["yes"] == "true", by="the web shop")
            return JsonResponse({"answered": True})
        return JsonResponse({"detail": "this order asks nothing now"}, status=409)


urlpatterns = [path("orders/<int:number>", Order.as_view()), path("orders/<int:number>/answer", Answer.as_view())]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
