"""The folder of the zoo `smol`: manifest.json, experts and routers; its base is made by `lorafuse zoo base`."""
